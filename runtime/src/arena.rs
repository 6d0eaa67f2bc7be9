//! The arena: one aligned piece of memory that holds the whole training state.

use crate::manifest::{Element, Slot};
use alloc::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use core::ptr::NonNull;

/// Alignment of the arena and of every slot: one cache line, one AVX-512 vector.
pub const ALIGNMENT: usize = 64;

/// Larger allocations lie in huge pages where the system has them: kernels walk many pages at once.
const HUGE_PAGE: usize = 2 << 20;

/// Allocations from this size on are made of whole huge pages.
const LARGE: usize = HUGE_PAGE / 2;

/// One piece of memory, zeroed at birth, never grown.
#[derive(Debug)]
pub struct Arena {
    memory: NonNull<u8>,
    bytes: usize,
    /// Of the allocation, if it is the arena's own.
    allocated: Option<Layout>,
}

/// One line, which an arena of no bytes points at.
#[repr(align(64))]
struct Line;

// SAFETY: the arena owns its memory; shared access hands out only shared slices.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena of `bytes` zeros.
    pub fn new(bytes: usize) -> Self {
        let layout = Self::layout(bytes);
        #[cfg(all(target_os = "linux", target_env = "gnu", feature = "std"))]
        if bytes >= LARGE {
            // What came before, compiling above all, may have left more free memory in the heap than a training can use.
            // SAFETY: it moves nothing that is in use.
            unsafe { libc::malloc_trim(0) };
        }
        // SAFETY: the layout's size is at least one alignment, never zero.
        let memory = unsafe { alloc(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        #[cfg(all(target_os = "linux", feature = "std"))]
        if bytes >= LARGE {
            // Pages are chosen when they are first touched, so before they are cleared.
            // SAFETY: the range is this allocation. The advice may be refused, which costs speed alone.
            unsafe { libc::madvise(memory.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        // SAFETY: the range is this allocation.
        unsafe { memory.as_ptr().write_bytes(0, layout.size()) };
        Arena { memory, bytes, allocated: Some(layout) }
    }

    /// An arena of no bytes, which allocates nothing.
    pub(crate) fn empty() -> Self {
        Arena { memory: NonNull::<Line>::dangling().cast(), bytes: 0, allocated: None }
    }

    /// An arena of `bytes` zeros at the beginning of `memory`, and the memory behind it; `None` where there is too little. What
    /// lies before the first multiple of [`ALIGNMENT`] is left out.
    pub fn within(memory: &'static mut [u8], bytes: usize) -> Option<(Self, &'static mut [u8])> {
        let before = memory.as_ptr().align_offset(ALIGNMENT);
        let (_, aligned) = memory.split_at_mut_checked(before)?;
        let (own, rest) = aligned.split_at_mut_checked(bytes)?;
        own.fill(0);
        let memory = NonNull::new(own.as_mut_ptr())?;
        Some((Arena { memory, bytes, allocated: None }, rest))
    }

    fn layout(bytes: usize) -> Layout {
        let alignment = if bytes < LARGE { ALIGNMENT } else { HUGE_PAGE };
        let size = bytes.max(1).checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
        match Layout::from_size_align(size, alignment) {
            Ok(layout) => layout,
            Err(_) => panic!("an arena of {bytes} bytes exceeds the address space"),
        }
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its first byte: what kernels address from.
    pub fn base(&self) -> *mut u8 {
        self.memory.as_ptr()
    }

    /// The first byte of its `index`-th part, parts being of `bytes` each: a worker's scratch.
    ///
    /// # Panics
    /// The part reaches past the end.
    pub fn part(&self, index: usize, bytes: usize) -> *mut u8 {
        assert!((index + 1) * bytes <= self.bytes, "part {index} of {bytes} bytes reaches past an arena of {}", self.bytes);
        // SAFETY: inside the allocation.
        unsafe { self.memory.as_ptr().add(index * bytes) }
    }

    fn start(&self, slot: Slot, element: Element) -> *mut u8 {
        assert_eq!(slot.element, element, "slot read as another element");
        assert!(slot.offset.is_multiple_of(4) && slot.offset + slot.len * element.bytes() <= self.bytes, "slot outside the arena");
        // SAFETY: the assertion above keeps the slot inside the allocation.
        unsafe { self.memory.as_ptr().add(slot.offset) }
    }

    /// The floats of `slot`.
    pub fn floats(&self, slot: Slot) -> &[f32] {
        // SAFETY: in bounds and aligned (see `start`); every bit pattern is a float; borrowed from self.
        unsafe { core::slice::from_raw_parts(self.start(slot, Element::F32).cast(), slot.len) }
    }

    /// The floats of `slot`, to be written.
    pub fn floats_mut(&mut self, slot: Slot) -> &mut [f32] {
        // SAFETY: as in `floats`; the exclusive borrow makes it the only one.
        unsafe { core::slice::from_raw_parts_mut(self.start(slot, Element::F32).cast(), slot.len) }
    }

    /// The integers of `slot`.
    pub fn words(&self, slot: Slot) -> &[u32] {
        // SAFETY: in bounds and aligned (see `start`); borrowed from self.
        unsafe { core::slice::from_raw_parts(self.start(slot, Element::U32).cast(), slot.len) }
    }

    /// The integers of `slot`, to be written.
    pub fn words_mut(&mut self, slot: Slot) -> &mut [u32] {
        // SAFETY: as in `words`; the exclusive borrow makes it the only one.
        unsafe { core::slice::from_raw_parts_mut(self.start(slot, Element::U32).cast(), slot.len) }
    }

    /// The halves of `slot`: upper bits of floats.
    pub fn halves(&self, slot: Slot) -> &[u16] {
        // SAFETY: in bounds and aligned (see `start`); borrowed from self.
        unsafe { core::slice::from_raw_parts(self.start(slot, Element::Bf16).cast(), slot.len) }
    }

    /// The halves of `slot`, to be written.
    pub fn halves_mut(&mut self, slot: Slot) -> &mut [u16] {
        // SAFETY: as in `halves`; the exclusive borrow makes it the only one.
        unsafe { core::slice::from_raw_parts_mut(self.start(slot, Element::Bf16).cast(), slot.len) }
    }

    /// The bytes of `slot`, whatever its elements are.
    pub fn bytes_of(&self, slot: Slot) -> &[u8] {
        // SAFETY: in bounds (see `start`); borrowed from self.
        unsafe { core::slice::from_raw_parts(self.start(slot, slot.element), slot.len * slot.element.bytes()) }
    }

    /// The bytes of `slot`, to be written: every pattern of bits is an element.
    pub fn bytes_of_mut(&mut self, slot: Slot) -> &mut [u8] {
        // SAFETY: as in `bytes_of`; the exclusive borrow makes it the only one.
        unsafe { core::slice::from_raw_parts_mut(self.start(slot, slot.element), slot.len * slot.element.bytes()) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(layout) = self.allocated {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(self.memory.as_ptr(), layout) }
        }
    }
}
