//! The fuzzer's bytes, read as choices.

/// What an input still has to choose. One that is used up chooses the first of everything, so that every input means
/// something and a shorter one means less.
pub(crate) struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Script<'a> {
        Script { rest: input }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// A number that the input writes out.
    pub(crate) fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// A number below `end`, which is 256 at most.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// True once in `times`, and never where the input is used up.
    pub(crate) fn once_in(&mut self, times: u8) -> bool {
        self.byte() % times == times - 1
    }

    /// Up to `max` bytes of the input as they are.
    pub(crate) fn bytes(&mut self, max: usize) -> &'a [u8] {
        let wanted = self.below(256).min(max);
        let (taken, rest) = self.rest.split_at(wanted.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}
