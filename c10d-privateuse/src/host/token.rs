//! The number that stands for an operation in the ABI: the slot is in the lower half, the slot's generation (how often
//! the slot was used) in the upper half.

/// A token of the ABI.
pub(super) type Token = u64;

pub(super) fn token(slot: u32, generation: u32) -> Token {
    Token::from(generation) << 32 | Token::from(slot)
}

pub(super) fn slot(token: Token) -> u32 {
    token as u32
}

pub(super) fn generation(token: Token) -> u32 {
    (token >> 32) as u32
}
