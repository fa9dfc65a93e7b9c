//! The one macro that turns a [`Policy`](crate::Policy) into a component's exports, and where it keeps the policy.

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

/// Told when `configure` is done, for the sake of the allocator.
pub fn seal() {
    #[cfg(all(target_arch = "wasm32", feature = "allocator"))]
    crate::alloc::seal();
}

/// Exports a type that implements [`Policy`](crate::Policy) as this component's permission policy. Once per crate.
#[macro_export]
macro_rules! export_policy {
    ($policy:ty) => {
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = {
            const fn is_policy<P: $crate::Policy>() {}
            is_policy::<$policy>();
        };
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            static POLICY: $crate::__private::Slot<$policy> = $crate::__private::Slot::new();

            struct Exported;

            impl $crate::__private::bindings::Guest for Exported {
                fn describe() -> $crate::Description {
                    <$policy as $crate::Policy>::describe()
                }

                fn configure(config: ::std::string::String) -> ::core::result::Result<(), ::std::string::String> {
                    let done = POLICY.set(<$policy as $crate::Policy>::configure(&config)?);
                    $crate::__private::seal();
                    done
                }
            }

            impl $crate::__private::bindings::exports::beadle::plugin::policy::Guest for Exported {
                fn decide(session: $crate::Session, call: $crate::Call) -> $crate::Decision {
                    // The instance ends with this call: freeing the arguments one by one would only cost time.
                    let (session, call) = (::core::mem::ManuallyDrop::new(session), ::core::mem::ManuallyDrop::new(call));
                    match POLICY.get() {
                        ::core::option::Option::Some(policy) => <$policy as $crate::Policy>::decide(policy, &session, &call),
                        ::core::option::Option::None => $crate::Decision::deny("the policy was not configured"),
                    }
                }
            }

            $crate::__private::bindings::export_permission_policy!(
                Exported with_types_in $crate::__private::bindings
            );
        };
    };
}
