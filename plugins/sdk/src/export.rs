//! The macros that turn a type into a component's exports, one for each kind of plugin, and where they keep the configured value.

use core::cell::OnceCell;

/// Holds the configured policy for the life of the instance.
pub struct Slot<T>(OnceCell<T>);

// SAFETY: exists only in guests, which are built for wasm32 without threads; nothing else can hold a reference.
#[cfg(target_arch = "wasm32")]
unsafe impl<T> Sync for Slot<T> {}

impl<T> Slot<T> {
    pub const fn new() -> Self {
        Self(OnceCell::new())
    }

    pub fn get(&self) -> Option<&T> {
        self.0.get()
    }

    /// Fails when a policy is there already: an instance is configured once.
    pub fn set(&self, policy: T) -> Result<(), String> {
        self.0.set(policy).map_err(|_| "configure was called twice on one instance".to_owned())
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Told before any code of the plugin runs in an instance.
pub fn begin() {
    #[cfg(all(target_arch = "wasm32", feature = "panic-message"))]
    crate::panic::install();
}

/// Told when `configure` is done, for the sake of the allocator.
pub fn seal() {
    #[cfg(all(target_arch = "wasm32", feature = "allocator"))]
    crate::alloc::seal();
}

/// Exports a type that implements [`Policy`](crate::Policy) as this component's permission policy. Once per crate.
///
/// Optional moments are named behind it, each a trait that the type implements too:
/// `export_policy!(Mine: JudgeSession, JudgeResult);`.
#[macro_export]
macro_rules! export_policy {
    ($policy:ty) => {
        $crate::export_policy!($policy:);
    };
    ($policy:ty : $($moment:ident),* $(,)?) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = {
            const fn is_policy<P: $crate::Policy $(+ $crate::$moment)*>() {}
            is_policy::<$policy>();
        };
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            static POLICY: $crate::__private::Slot<$policy> = $crate::__private::Slot::new();

            struct Exported;

            impl $crate::__private::bindings::policy::Guest for Exported {
                fn describe() -> $crate::Description {
                    $crate::__private::begin();
                    <$policy as $crate::Policy>::describe()
                }

                fn configure(config: ::std::string::String) -> ::core::result::Result<(), ::std::string::String> {
                    $crate::__private::begin();
                    let done = POLICY.set(<$policy as $crate::Policy>::configure(&config)?);
                    $crate::__private::seal();
                    done
                }
            }

            impl $crate::__private::bindings::policy::exports::beadle::plugin::policy::Guest for Exported {
                fn decide(session: $crate::Session, call: $crate::Call) -> $crate::Decision {
                    // The instance ends with this call: freeing the arguments one by one would only cost time.
                    let (session, call) = (::core::mem::ManuallyDrop::new(session), ::core::mem::ManuallyDrop::new(call));
                    match POLICY.get() {
                        ::core::option::Option::Some(policy) => <$policy as $crate::Policy>::decide(policy, &session, &call),
                        ::core::option::Option::None => $crate::Decision::deny("the policy was not configured"),
                    }
                }
            }

            $crate::__private::bindings::policy::export_permission_policy!(
                Exported with_types_in $crate::__private::bindings::policy
            );

            $($crate::__export_moment!($moment, $policy, POLICY, Exported);)*
        };
    };
}

/// The exports of one optional moment. A policy that was not configured cannot be asked: the panic counts as its failure.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_moment {
    (JudgeSession, $policy:ty, $slot:ident, $exported:ident) => {
        impl $crate::__private::bindings::judge_session::exports::beadle::plugin::judge_session::Guest for $exported {
            fn judge(session: $crate::Session, start: $crate::Start) -> $crate::SessionAnswer {
                $crate::JudgeSession::judge_session($slot.get().expect("configured"), &session, &start)
            }
        }
        $crate::__private::bindings::judge_session::export_judge_session!(
            $exported with_types_in $crate::__private::bindings::judge_session
        );
    };
    (JudgePrompt, $policy:ty, $slot:ident, $exported:ident) => {
        impl $crate::__private::bindings::judge_prompt::exports::beadle::plugin::judge_prompt::Guest for $exported {
            fn judge(session: $crate::Session, prompt: $crate::Prompt) -> $crate::PromptAnswer {
                $crate::JudgePrompt::judge_prompt($slot.get().expect("configured"), &session, &prompt)
            }
        }
        $crate::__private::bindings::judge_prompt::export_judge_prompt!(
            $exported with_types_in $crate::__private::bindings::judge_prompt
        );
    };
    (JudgeResult, $policy:ty, $slot:ident, $exported:ident) => {
        impl $crate::__private::bindings::judge_result::exports::beadle::plugin::judge_result::Guest for $exported {
            fn judge(session: $crate::Session, call: $crate::Call, result: $crate::ToolResult) -> $crate::ResultAnswer {
                $crate::JudgeResult::judge_result($slot.get().expect("configured"), &session, &call, &result)
            }
        }
        $crate::__private::bindings::judge_result::export_judge_result!(
            $exported with_types_in $crate::__private::bindings::judge_result
        );
    };
    (JudgeAttempt, $policy:ty, $slot:ident, $exported:ident) => {
        impl $crate::__private::bindings::judge_attempt::exports::beadle::plugin::judge_attempt::Guest for $exported {
            fn judge(session: $crate::Session, attempt: $crate::Attempt) -> $crate::Verdict {
                $crate::JudgeAttempt::judge_attempt($slot.get().expect("configured"), &session, &attempt)
            }
        }
        $crate::__private::bindings::judge_attempt::export_judge_attempt!(
            $exported with_types_in $crate::__private::bindings::judge_attempt
        );
    };
    ($other:ident, $policy:ty, $slot:ident, $exported:ident) => {
        ::core::compile_error!(::core::concat!(
            "there is no moment ",
            ::core::stringify!($other),
            "; name JudgeSession, JudgePrompt, JudgeResult or JudgeAttempt"
        ));
    };
}

/// Exports a type that implements [`Strategy`](crate::Strategy) as this component's compaction strategy. Once per crate.
#[macro_export]
macro_rules! export_strategy {
    ($strategy:ty) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = {
            const fn is_strategy<S: $crate::Strategy>() {}
            is_strategy::<$strategy>();
        };
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            static STRATEGY: $crate::__private::Slot<$strategy> = $crate::__private::Slot::new();

            struct Exported;

            impl $crate::__private::bindings::strategy::Guest for Exported {
                fn describe() -> $crate::Description {
                    $crate::__private::begin();
                    <$strategy as $crate::Strategy>::describe()
                }

                fn configure(config: ::std::string::String) -> ::core::result::Result<(), ::std::string::String> {
                    $crate::__private::begin();
                    let done = STRATEGY.set(<$strategy as $crate::Strategy>::configure(&config)?);
                    $crate::__private::seal();
                    done
                }
            }

            impl $crate::__private::bindings::strategy::exports::beadle::plugin::compaction::Guest for Exported {
                fn plan(
                    session: $crate::Session,
                    transcript: &$crate::__private::Lent,
                    budget: $crate::Budget,
                ) -> ::std::vec::Vec<$crate::Edit> {
                    $crate::Strategy::plan(STRATEGY.get().expect("configured"), &session, transcript, &budget)
                }
            }

            $crate::__private::bindings::strategy::export_strategy!(
                Exported with_types_in $crate::__private::bindings::strategy
            );
        };
    };
}

/// Exports a type that implements [`Sink`](crate::Sink) as this component's audit sink. Once per crate.
#[macro_export]
macro_rules! export_sink {
    ($sink:ty) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = {
            const fn is_sink<S: $crate::Sink>() {}
            is_sink::<$sink>();
        };
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            static SINK: $crate::__private::Slot<$sink> = $crate::__private::Slot::new();

            struct Exported;

            impl $crate::__private::bindings::sink::Guest for Exported {
                fn describe() -> $crate::Description {
                    $crate::__private::begin();
                    <$sink as $crate::Sink>::describe()
                }

                fn configure(config: ::std::string::String) -> ::core::result::Result<(), ::std::string::String> {
                    $crate::__private::begin();
                    let done = SINK.set(<$sink as $crate::Sink>::configure(&config)?);
                    $crate::__private::seal();
                    done
                }
            }

            impl $crate::__private::bindings::sink::exports::beadle::plugin::audit::Guest for Exported {
                fn write(batch: $crate::Batch) -> $crate::Outcome {
                    $crate::Sink::write(SINK.get().expect("configured"), &batch)
                }
            }

    $crate::__private::bindings::sink::export_sink!(Exported with_types_in $crate::__private::bindings::sink);
        };
    };
}
