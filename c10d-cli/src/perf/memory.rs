//! Buffers at addresses that are alike for all that are compared.

use super::layout::Side;
use super::sample::Sample;

const PAGE: usize = 4 << 10;
const HUGE_PAGE: usize = 2 << 20;

/// Memory for one side of a call: on a page of its own, from 2 MiB on a huge one.
pub(super) struct Memory<T> {
    room: Vec<T>,
    start: usize,
    side: Side,
}

impl<T: Sample> Memory<T> {
    pub(super) fn new(side: Side) -> Memory<T> {
        let bytes = side.elements() * size_of::<T>();
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { PAGE };
        let room = vec![T::whole(0); side.elements() + align / size_of::<T>()];
        // Room without elements has an address that says nothing; then any start will do.
        let start = room.as_ptr().align_offset(align).min(room.len() - side.elements());
        Memory { room, start, side }
    }

    /// The tensors, one behind the other.
    pub(super) fn tensors(&mut self) -> Vec<&mut [T]> {
        let Side { tensors, pieces, len } = self.side;
        let all = &mut self.room[self.start..self.start + self.side.elements()];
        match pieces * len {
            0 => (0..tensors).map(|_| Default::default()).collect(),
            each => all.chunks_mut(each).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_aligned_and_cover_the_side() {
        for (tensors, pieces, len, align) in [(1, 1, 3, PAGE), (4, 3, 1000, PAGE), (2, 1, 1 << 20, HUGE_PAGE)] {
            let mut memory = Memory::<f32>::new(Side { tensors, pieces, len });
            let found = memory.tensors();
            assert_eq!(found.len(), tensors);
            assert!(found.iter().all(|t| t.len() == pieces * len));
            assert_eq!(found[0].as_ptr() as usize % align, 0);
        }
        assert_eq!(Memory::<u8>::new(Side { tensors: 3, pieces: 1, len: 0 }).tensors().len(), 3);
    }
}
