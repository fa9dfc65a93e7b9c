//! The generated bindings. Private: what guests use is re-exported by hand in `lib.rs`.
//!
//! One module for each kind of plugin and each optional moment: a component gets the exports of those that its macro names, and no
//! others. The shared types are those of the first, everywhere.

#![allow(missing_docs, clippy::all, reason = "generated code")]

wit_bindgen::generate!({
    path: "../../wit/v0.1",
    world: "permission-policy",
    pub_export_macro: true,
    export_macro_name: "export_permission_policy",
    additional_derives: [PartialEq, Eq],
});

/// What plugins import beyond their world; a component imports only the interfaces that it uses.
pub mod capabilities {
    wit_bindgen::generate!({
        inline: "
            package beadle:sdk;
            world capabilities {
                import beadle:plugin/kv@0.1.0;
                import beadle:plugin/clock@0.1.0;
                import beadle:plugin/random@0.1.0;
                import beadle:plugin/env@0.1.0;
                import beadle:plugin/secret@0.1.0;
                import beadle:plugin/fs@0.1.0;
                import beadle:plugin/http@0.1.0;
            }
        ",
        path: "../../wit/v0.1",
        world: "beadle:sdk/capabilities",
        generate_all,
        additional_derives: [PartialEq, Eq],
    });
}

pub mod judge_session {
    wit_bindgen::generate!({
        inline: "package beadle:sdk; world judge-session-moment { export beadle:plugin/judge-session@0.1.0; }",
        path: "../../wit/v0.1",
        world: "beadle:sdk/judge-session-moment",
        with: { "beadle:plugin/types@0.1.0": crate::bindings::beadle::plugin::types },
        pub_export_macro: true,
        export_macro_name: "export_judge_session",
        additional_derives: [PartialEq, Eq],
    });
}

pub mod judge_prompt {
    wit_bindgen::generate!({
        inline: "package beadle:sdk; world judge-prompt-moment { export beadle:plugin/judge-prompt@0.1.0; }",
        path: "../../wit/v0.1",
        world: "beadle:sdk/judge-prompt-moment",
        with: { "beadle:plugin/types@0.1.0": crate::bindings::beadle::plugin::types },
        pub_export_macro: true,
        export_macro_name: "export_judge_prompt",
        additional_derives: [PartialEq, Eq],
    });
}

pub mod judge_result {
    wit_bindgen::generate!({
        inline: "package beadle:sdk; world judge-result-moment { export beadle:plugin/judge-result@0.1.0; }",
        path: "../../wit/v0.1",
        world: "beadle:sdk/judge-result-moment",
        with: { "beadle:plugin/types@0.1.0": crate::bindings::beadle::plugin::types },
        pub_export_macro: true,
        export_macro_name: "export_judge_result",
        additional_derives: [PartialEq, Eq],
    });
}

pub mod judge_attempt {
    wit_bindgen::generate!({
        inline: "package beadle:sdk; world judge-attempt-moment { export beadle:plugin/judge-attempt@0.1.0; }",
        path: "../../wit/v0.1",
        world: "beadle:sdk/judge-attempt-moment",
        with: { "beadle:plugin/types@0.1.0": crate::bindings::beadle::plugin::types },
        pub_export_macro: true,
        export_macro_name: "export_judge_attempt",
        additional_derives: [PartialEq, Eq],
    });
}

pub mod strategy {
    wit_bindgen::generate!({
        path: "../../wit/v0.1",
        world: "compaction-strategy",
        with: {
            "beadle:plugin/types@0.1.0": crate::bindings::beadle::plugin::types,
            "beadle:plugin/log@0.1.0": crate::bindings::beadle::plugin::log,
        },
        pub_export_macro: true,
        export_macro_name: "export_strategy",
    });
}

pub mod sink {
    wit_bindgen::generate!({
        path: "../../wit/v0.1",
        world: "audit-sink",
        with: {
            "beadle:plugin/types@0.1.0": crate::bindings::beadle::plugin::types,
            "beadle:plugin/log@0.1.0": crate::bindings::beadle::plugin::log,
        },
        pub_export_macro: true,
        export_macro_name: "export_sink",
    });
}
