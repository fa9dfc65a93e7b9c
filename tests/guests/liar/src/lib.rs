//! A policy that speaks the canonical ABI by hand and lies in it: pointers, lengths, text, discriminants, allocation,
//! clean-up. For tests of the plugin engine only; small, so that many damaged copies of it can be compiled.
//!
//! The configuration names the way, as a plain word or as `{"way":"..."}`; the ways are the arms of `decide`,
//! `cabi_realloc`, `after` and `configure`. `describe` knows no configuration: tests overwrite the letters of
//! `DESCRIBES` in the built file.

#![cfg(target_arch = "wasm32")]

use core::arch::wasm32;
use core::hint::black_box;
use core::ptr::{addr_of, addr_of_mut};

wit_bindgen::generate!({ path: "../../../wit/v0.1", world: "permission-policy" });

#[link(wasm_import_module = "beadle:plugin/log@0.1.0")]
unsafe extern "C" {
    #[link_name = "log"]
    fn host_log(level: u32, text: usize, len: usize);
}

const PAGE: usize = 1 << 16;
/// Beyond every memory that a guest can have here.
const OUTSIDE: usize = 0xffff_fff0;

/// How `describe` lies; 24 letters, which tests overwrite.
#[used]
static DESCRIBES: [u8; 24] = *b"describe:honest........#";

static mut WAY: [u8; 64] = [0; 64];
static mut WAY_LEN: usize = 0;
static mut NEXT: usize = 0;
static mut END: usize = 0;
static mut COUNT: u32 = 0;
static mut DIGIT: [u8; 1] = [0];
/// The answer: a decision is 9 words, a description 10.
static mut ANSWER: [usize; 12] = [0; 12];
static mut BLOCK: [u64; 8192] = [0; 8192];

fn way() -> &'static str {
    // SAFETY: a guest has one thread, and only `configure` writes.
    unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(addr_of!(WAY).cast(), WAY_LEN)) }
}

fn endless() -> ! {
    loop {
        black_box(0);
    }
}

fn trap() -> ! {
    wasm32::unreachable()
}

/// Memory that is never given back.
fn take(size: usize, align: usize) -> usize {
    // SAFETY: one thread.
    unsafe {
        let mut at = NEXT.next_multiple_of(align.max(1));
        if at + size > END {
            let pages = size.div_ceil(PAGE) + 8;
            let old = wasm32::memory_grow::<0>(pages);
            if old == usize::MAX {
                trap();
            }
            at = if old * PAGE == END && END != 0 { at } else { (old * PAGE).max(8) };
            END = (old + pages) * PAGE;
        }
        NEXT = at + size;
        at
    }
}

fn say(level: u32, text: &str) {
    // SAFETY: the text is in memory.
    unsafe { host_log(level, text.as_ptr() as usize, text.len()) }
}

#[unsafe(export_name = "cabi_realloc")]
extern "C" fn cabi_realloc(_old: usize, _old_len: usize, align: usize, size: usize) -> usize {
    match way() {
        "realloc-outside" => OUTSIDE,
        "realloc-edge" => wasm32::memory_size::<0>() * PAGE - 1,
        "realloc-null" => 0,
        "realloc-same" => addr_of!(BLOCK) as usize,
        "realloc-odd" => take(size + 1, align) + 1,
        "realloc-statics" => addr_of!(ANSWER) as usize,
        "realloc-trap" => trap(),
        "realloc-loop" => endless(),
        "realloc-log" => {
            say(1, "from realloc");
            take(size, align)
        }
        "realloc-grow" => {
            wasm32::memory_grow::<0>(16);
            take(size, align)
        }
        _ => take(size, align),
    }
}

#[unsafe(export_name = "describe")]
extern "C" fn describe() -> usize {
    // SAFETY: one thread; the volatile read keeps the letters in the file.
    let (answer, lie) = unsafe { (&mut *addr_of_mut!(ANSWER), core::ptr::read_volatile(&DESCRIBES)) };
    let text = |answer: &mut [usize; 12], n: usize, s: &str| {
        answer[n * 2] = s.as_ptr() as usize;
        answer[n * 2 + 1] = s.len();
    };
    for (n, s) in ["liar", "0.0.1", "Lies.", "{}"].iter().enumerate() {
        text(answer, n, s);
    }
    answer[8] = 8;
    answer[9] = 0;
    match &lie[9..15] {
        b"loops." => endless(),
        b"traps." => trap(),
        b"nouser" => answer[0] = OUTSIDE,
        b"utf8.." => text(answer, 0, NOT_TEXT),
        b"wants." => answer[9] = 0x1fff_ffff,
        b"large." => {
            answer[0] = take(1 << 20, 1);
            answer[1] = 1 << 20;
        }
        b"nobody" => return OUTSIDE,
        _ => {}
    }
    answer.as_ptr() as usize
}

#[unsafe(export_name = "configure")]
extern "C" fn configure(config: *const u8, len: usize) -> usize {
    // SAFETY: the host wrote the configuration there; one thread.
    unsafe {
        let given = core::slice::from_raw_parts(config, len);
        let mut quotes = given.iter().enumerate().filter(|(_, c)| **c == b'"').map(|(i, _)| i).skip(2);
        let word = match (quotes.next(), quotes.next()) {
            (Some(from), Some(to)) => &given[from + 1..to],
            _ => given,
        };
        WAY_LEN = word.len().min(64);
        addr_of_mut!(WAY).cast::<u8>().copy_from(word.as_ptr(), WAY_LEN);
        let answer = &mut *addr_of_mut!(ANSWER);
        answer[0] = 0;
        match way() {
            "configure-discriminant" => answer[0] = 9,
            "configure-outside" => return OUTSIDE,
            "configure-reason-outside" => *answer = [1, OUTSIDE, 100, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "configure-reason-utf8" => *answer = [1, NOT_TEXT.as_ptr() as usize, NOT_TEXT.len(), 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "configure-log" => say(1, "from configure"),
            "configure-flood" => (0..1_000_000).for_each(|_| say(3, "again")),
            // Undoes itself: what the snapshot keeps is not what an ordinary instance has.
            "configure-grow" => {
                wasm32::memory_grow::<0>(512);
            }
            _ => {}
        }
        answer.as_ptr() as usize
    }
}

/// Bytes that are no UTF-8, in the guise of text: they are only ever handed over by address.
#[allow(invalid_from_utf8_unchecked, reason = "a lie on purpose")]
// SAFETY: never read as text by this guest.
const NOT_TEXT: &str = unsafe { core::str::from_utf8_unchecked(&[b'a', 0xff, 0xfe, b'z']) };
#[allow(invalid_from_utf8_unchecked, reason = "a lie on purpose")]
// SAFETY: as above.
const SURROGATE: &str = unsafe { core::str::from_utf8_unchecked(&[0xed, 0xa0, 0x80]) };

/// `n` bytes of `fill` between a head and a tail.
fn long(head: &str, fill: u8, n: usize, tail: &str) -> (usize, usize) {
    let at = take(head.len() + n + tail.len(), 1);
    // SAFETY: just taken.
    unsafe {
        let p = at as *mut u8;
        p.copy_from(head.as_ptr(), head.len());
        p.add(head.len()).write_bytes(fill, n);
        p.add(head.len() + n).copy_from(tail.as_ptr(), tail.len());
    }
    (at, head.len() + n + tail.len())
}

#[unsafe(export_name = "beadle:plugin/policy@0.1.0#decide")]
extern "C" fn decide(_question: usize) -> usize {
    // SAFETY: one thread.
    let a = unsafe { &mut *addr_of_mut!(ANSWER) };
    // Allow, an empty reason, no rule, no input.
    *a = [1, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let input = |a: &mut [usize; 12], (at, len): (usize, usize)| {
        (a[6], a[7], a[8]) = (1, at, len);
    };
    let text = |s: &str| (s.as_ptr() as usize, s.len());
    match way() {
        "count" => {
            // SAFETY: one thread.
            unsafe {
                COUNT += 1;
                DIGIT[0] = b'0' + (COUNT % 10) as u8;
                (a[1], a[2]) = (addr_of!(DIGIT) as usize, 1);
            }
        }
        "effect" => a[0] = 4,
        "effect-far" => a[0] = 255,
        "option" => a[3] = 2,
        "reason-outside" => (a[1], a[2]) = (OUTSIDE, 8),
        "reason-wraps" => (a[1], a[2]) = (OUTSIDE, 0x20),
        "reason-endless" => (a[1], a[2]) = (16, usize::MAX),
        "rule-outside" => (a[3], a[4], a[5]) = (1, OUTSIDE, 8),
        "input-outside" => input(a, (OUTSIDE, 8)),
        "answer-outside" => return OUTSIDE,
        "answer-odd" => return a.as_ptr() as usize + 1,
        "answer-edge" => return wasm32::memory_size::<0>() * PAGE - 8,
        "utf8" => (a[1], a[2]) = text(NOT_TEXT),
        "utf8-surrogate" => (a[1], a[2]) = text(SURROGATE),
        "utf8-rule" => (a[3], a[4], a[5]) = (1, NOT_TEXT.as_ptr() as usize, NOT_TEXT.len()),
        "utf8-input" => input(a, text(NOT_TEXT)),
        "giant" => (a[1], a[2]) = (take(60 << 20, 1), 60 << 20),
        "giant-input" => {
            let big = long("{\"a\":\"", b'x', 50 << 20, "\"}");
            input(a, big);
        }
        "overlap" => {
            let (at, len) = text("{\"a\":1}");
            *a = [1, at, len, 1, at, len, 1, at, len, 0, 0, 0];
        }
        "overlap-answer" => (a[1], a[2]) = (a.as_ptr() as usize, 36),
        "json-deep" => {
            let deep = long("{\"a\":", b'[', 100_000, "");
            input(a, deep);
        }
        "json-nan" => input(a, text("{\"a\":NaN}")),
        "json-infinite" => input(a, text("{\"a\":1e999}")),
        "json-twice" => input(a, text("{\"command\":\"true\",\"command\":\"false\"}")),
        "json-surrogate" => input(a, text("{\"a\":\"\\ud800\"}")),
        "json-trailing" => input(a, text("{} {}")),
        "json-mark" => input(a, text("\u{feff}{}")),
        "json-digits" => {
            let digits = long("{\"a\":0.", b'7', 1_000_000, "e-5}");
            input(a, digits);
        }
        "json-integer" => {
            let digits = long("{\"a\":", b'7', 1_000_000, "}");
            input(a, digits);
        }
        "json-blank" => {
            let blank = long("{", b' ', 1_000_000, "}");
            input(a, blank);
        }
        "log-outside" => unsafe { host_log(1, OUTSIDE, 8) },
        "log-utf8" => say(1, NOT_TEXT),
        "log-level" => say(9, "no such level"),
        "log-giant" => unsafe { host_log(1, take(60 << 20, 1), 60 << 20) },
        "log-million" => (0..1_000_000).for_each(|_| say(2, "again")),
        "log-large" => {
            let (at, len) = long("", b'x', 1 << 20, "");
            (0..1_000_000).for_each(|_| unsafe { host_log(2, at, len) });
        }
        "memory-touch" => {
            // All that there is, every page written, and then a fair answer.
            while wasm32::memory_grow::<0>(1) != usize::MAX {}
            let end = wasm32::memory_size::<0>() * PAGE;
            let mut at = end / 2;
            while at < end {
                // SAFETY: beyond everything that this guest uses.
                unsafe { (at as *mut u8).write_volatile(1) };
                at += 4096;
            }
        }
        // Slow, but within a usual deadline, and the answer is fair: what quarantine does not see.
        "busy" => {
            for i in 0..40_000_000u32 {
                black_box(i);
            }
        }
        "loop" => endless(),
        "trap" => trap(),
        _ => {}
    }
    a.as_ptr() as usize
}

#[unsafe(export_name = "cabi_post_beadle:plugin/policy@0.1.0#decide")]
extern "C" fn after(_answer: usize) {
    match way() {
        "after-loop" => endless(),
        "after-trap" => trap(),
        "after-log" => say(1, "after the answer"),
        _ => {}
    }
}
