//! The property tests' entry points, as what libFuzzer calls.

#[path = "../../tests/fuzz_entry/mod.rs"]
mod fuzz_entry;

/// See the function of the same name in `tests/fuzz_entry`.
pub fn client_port(input: &[u8]) {
    fuzz_entry::client_port(input);
}

/// See the function of the same name in `tests/fuzz_entry`.
pub fn uplink_port(input: &[u8]) {
    fuzz_entry::uplink_port(input);
}

/// See the function of the same name in `tests/fuzz_entry`.
pub fn transfer_port(input: &[u8]) {
    fuzz_entry::transfer_port(input);
}

/// See the function of the same name in `tests/fuzz_entry`.
pub fn client_engine(input: &[u8]) {
    fuzz_entry::client_engine(input);
}

/// See the function of the same name in `tests/fuzz_entry`.
pub fn control_json(input: &[u8]) {
    fuzz_entry::control_json(input);
}
