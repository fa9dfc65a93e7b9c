//! The generated bindings. Private: what guests use is re-exported by hand in `lib.rs`.

#![allow(missing_docs, clippy::all, reason = "generated code")]

wit_bindgen::generate!({
    path: "../../wit/v0.1",
    world: "permission-policy",
    pub_export_macro: true,
    export_macro_name: "export_permission_policy",
    additional_derives: [PartialEq, Eq],
});
