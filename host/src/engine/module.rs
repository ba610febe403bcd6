//! Components of somebody's own making: from the core module that a compiler writes.

use wit_component::ComponentEncoder;

use super::error::{EngineError, short};

/// Whether the bytes are a core module, which becomes a component by [`component_of`].
#[must_use]
pub fn is_module(bytes: &[u8]) -> bool {
    wasmparser::Parser::is_core_wasm(bytes)
}

/// Wraps a core module as a component, as the build of this program does with its own (`build.rs`). The module has to carry
/// the types of its world, which wit-bindgen puts there.
///
/// # Errors
/// [`EngineError::NotAComponent`] where it does not, or imports what no world of ours gives.
pub fn component_of(module: &[u8]) -> Result<Vec<u8>, EngineError> {
    let encoded = ComponentEncoder::default().validate(true).module(module).and_then(|encoder| encoder.encode());
    encoded.map_err(|error| EngineError::NotAComponent(short(&format!("{error:#}"))))
}
