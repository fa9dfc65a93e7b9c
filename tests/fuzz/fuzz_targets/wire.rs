//! Frames between daemon and shim, specs, exit records: any bytes are read or refused, and what is read is written back the same.

#![no_main]

use beadle_fuzz::wire::{ExitRecord, FromShim, Spec, ToShim, frame_len};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(frame) = ToShim::decode(data) {
        let bytes = frame.encode();
        assert_eq!(frame_len(&bytes), Ok(Some(bytes.len() - 4)));
        assert_eq!(ToShim::decode(&bytes[4..]), Ok(frame));
    }
    if let Ok(frame) = FromShim::decode(data) {
        let bytes = frame.encode();
        assert_eq!(FromShim::decode(&bytes[4..]), Ok(frame));
    }
    if let Ok(spec) = Spec::decode(data) {
        assert_eq!(Spec::decode(&spec.encode()), Ok(spec));
    }
    let _ = frame_len(data);
    let text = String::from_utf8_lossy(data);
    if let Ok(record) = ExitRecord::decode(&text) {
        assert_eq!(ExitRecord::decode(&record.encode()), Ok(record));
    }
});
