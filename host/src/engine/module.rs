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
    // The encoder takes what a section's head says of its length for true, and panics where the file ends before.
    for payload in wasmparser::Parser::new(0).parse_all(module) {
        payload.map_err(|error| EngineError::NotAComponent(short(error.message())))?;
    }
    let encoded = ComponentEncoder::default().validate(true).module(module).and_then(|encoder| encoder.encode());
    encoded.map_err(|error| EngineError::NotAComponent(short(&format!("{error:#}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_is_longer_than_the_file_is_refused() {
        let module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x04\x01\0\x0b";
        assert!(is_module(module));
        assert!(matches!(component_of(module), Err(EngineError::NotAComponent(_))));
    }
}
