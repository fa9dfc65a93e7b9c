//! The guest's allocator: power-of-two size classes over a bump pointer.
//!
//! Invariants: a block of class `c` is `16 << c` bytes and aligned to 16 or, for larger alignments, to its own size at
//! least; free blocks of a class form a list through their first word; memory grows by whole chunks and is never given
//! back. An instance lives for one call, so speed and few dirtied pages count, and return to the host does not: after
//! `configure`, [`seal`] forgets the free blocks, so that a call writes to fresh pages side by side instead of to holes
//! all over the snapshot. The host puts back each page that a call has written.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;

const PAGE: usize = 65_536;
/// 16 bytes up to 2 GiB, more than a guest can have.
const CLASSES: usize = 28;

struct State {
    /// Next free byte, and the end of what was grown. Both 0 before the first use.
    next: usize,
    end: usize,
    free: [*mut u8; CLASSES],
}

struct Classes(UnsafeCell<State>);

// SAFETY: guests are built without threads; nothing runs beside the allocator.
unsafe impl Sync for Classes {}

#[global_allocator]
static GLOBAL: Classes = Classes(UnsafeCell::new(State { next: 0, end: 0, free: [null_mut(); CLASSES] }));

/// Class of a size that already covers its alignment.
fn class(layout: Layout) -> usize {
    let size = layout.size().max(layout.align()).max(16);
    (usize::BITS - (size - 1).leading_zeros()) as usize - 4
}

/// Room that a snapshot has for calls before the memory must grow, in bytes; growing costs as much as a whole call.
const ROOM: usize = 32 << 10;

/// Called once, when `configure` is done.
pub fn seal() {
    // SAFETY: as in `alloc`.
    let state = unsafe { &mut *GLOBAL.0.get() };
    state.free = [null_mut(); CLASSES];
    let next = state.next;
    // Makes the memory large enough, and gives the bytes back when they follow what was there.
    if state.bump(ROOM, 16) as usize == next.next_multiple_of(16) {
        state.next = next;
    }
}

impl State {
    /// Takes `size` bytes at `align` from the end of the heap, growing the memory as needed; null when it cannot grow.
    fn bump(&mut self, size: usize, align: usize) -> *mut u8 {
        let Some(start) = self.next.checked_add(align - 1).map(|n| n & !(align - 1)) else { return null_mut() };
        let Some(stop) = start.checked_add(size) else { return null_mut() };
        if self.end == 0 || stop > self.end {
            let pages = (size + align).div_ceil(PAGE);
            let old = core::arch::wasm32::memory_grow::<0>(pages);
            if old == usize::MAX {
                return null_mut();
            }
            // Someone else may have grown the memory in between: then start over behind it.
            if old * PAGE != self.end {
                self.next = old * PAGE;
            }
            self.end = (old + pages) * PAGE;
            return self.bump(size, align);
        }
        self.next = stop;
        start as *mut u8
    }
}

// SAFETY: blocks come from `bump`, which never gives the same bytes twice, or from the free list of their own class,
// onto which only `dealloc` puts them; sizes and alignments follow `class`, which depends on the layout alone.
unsafe impl GlobalAlloc for Classes {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: no other reference to the state is alive; guests have one thread and this does not re-enter.
        let state = unsafe { &mut *self.0.get() };
        let c = class(layout);
        let Some(head) = state.free.get_mut(c) else { return null_mut() };
        if !head.is_null() {
            let block = *head;
            // SAFETY: a free block holds the next free block of its class in its first word, see `dealloc`.
            *head = unsafe { *block.cast::<*mut u8>() };
            return block;
        }
        state.bump(16 << c, layout.align().max(16))
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        let state = unsafe { &mut *self.0.get() };
        let c = class(layout);
        // SAFETY: the block is at least 16 bytes, aligned to 16 and no longer used by anyone.
        unsafe { *block.cast::<*mut u8>() = state.free[c] };
        state.free[c] = block;
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps `size` within what a layout may have.
        let larger = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if class(larger) == class(layout) {
            return block;
        }
        // SAFETY: `larger` is a valid layout of more than zero bytes; old and new block do not overlap, and both hold
        // at least the smaller of the two sizes.
        unsafe {
            let new = self.alloc(larger);
            if !new.is_null() {
                core::ptr::copy_nonoverlapping(block, new, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            new
        }
    }
}
