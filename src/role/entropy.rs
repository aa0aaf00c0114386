use byteorder::{BigEndian, ByteOrder};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::limits;
use crate::time::Span;
use crate::wire::link::Nonce;

/// All randomness of a core, from one seed that it is given: the same seed, the same run.
pub struct Entropy {
    seed: [u8; 32],
    drawn: u64,
    /// For jitter, where no stranger gains by guessing.
    pub jitter: fastrand::Rng,
}

impl Entropy {
    /// From a seed: 32 bytes of the system's randomness in production.
    pub fn new(seed: [u8; 32]) -> Entropy {
        let mut entropy = Entropy { seed, drawn: 0, jitter: fastrand::Rng::with_seed(0) };
        let jitter = entropy.number();
        entropy.jitter.seed(jitter);
        entropy
    }

    /// 32 bytes that cannot be guessed from any others that were drawn.
    pub fn nonce(&mut self) -> Nonce {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.seed).expect("HMAC takes a key of any length");
        mac.update(&self.drawn.to_be_bytes());
        self.drawn += 1;
        mac.finalize().into_bytes().into()
    }

    /// A number that cannot be guessed.
    pub fn number(&mut self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.nonce();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// When a peer that is turned away for now may be back.
    pub fn retry_after(&mut self) -> Span {
        let longest = limits::RETRY_AFTER.as_micros();
        Span::from_micros(self.jitter.u64(longest / 2..=longest))
    }

    /// A hasher for tables whose keys strangers choose.
    pub fn hasher(&mut self) -> ahash::RandomState {
        let nonce = self.nonce();
        let [a, b, c, d] = [0, 8, 16, 24].map(|start| BigEndian::read_u64(&nonce[start..start + 8]));
        ahash::RandomState::with_seeds(a, b, c, d)
    }
}
