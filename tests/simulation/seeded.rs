//! The system's own randomness, under the seed: what hash maps and tokio draw.
//!
//! Holds: in a thread that called [`hold`], `getrandom` gives the bytes of its seed; everywhere else the kernel's.

#![allow(unsafe_code, reason = "a function of the C library is put in the place of another")]

use std::cell::Cell;

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread's `getrandom` is that of `seed`.
pub fn hold(seed: u64) {
    STATE.set(Some(seed));
}

fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// As getrandom(2). The standard library calls it through its name, so that this one is found first.
///
/// # Safety
/// `room` points at `len` writable bytes, as there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(room: *mut u8, len: usize, flags: u32) -> isize {
    let Some(mut state) = STATE.try_with(Cell::get).ok().flatten() else {
        // SAFETY: the same call with the same arguments.
        let filled = unsafe { libc::syscall(libc::SYS_getrandom, room, len, flags) };
        return isize::try_from(filled).unwrap_or(-1);
    };
    for at in 0..len {
        // SAFETY: within `room`, as the caller promised.
        unsafe { room.add(at).write(draw(&mut state).to_le_bytes()[0]) };
    }
    STATE.set(Some(state));
    isize::try_from(len).unwrap_or(isize::MAX)
}
