//! Generated from `wit/policy.wit`; private, converted in `convert`.

mod generated {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "policy",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

pub(super) use generated::exports::portreeve::policy::decider;
pub(super) use generated::{Policy, PolicyPre};
