//! Makes components out of core modules and of other components.

use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding};

use super::DECIDER;

/// A component of the real world around a core module.
pub(super) fn component(module: &[u8]) -> Vec<u8> {
    let real = wit_component::decode(portreeve::engine::engine_component());
    let Ok(DecodedWasm::Component(resolve, world)) = real else {
        panic!("the engine component has a world");
    };
    let mut module = module.to_vec();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, true)
        .expect("the world fits into a section");
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .expect("the module fits the world")
        .encode()
        .expect("the module makes a component")
}

/// A component around a policy, which hands on what the policy exports and
/// imports an instance besides. Written as bytes: the inner component is there as bytes.
pub(super) fn importing(name: &str, policy: &[u8]) -> Vec<u8> {
    const INSTANCE: u8 = 0x05;
    let mut outer = b"\0asm\x0d\0\x01\0".to_vec();
    // One type: an instance that holds nothing.
    section(&mut outer, 7, &[1, 0x42, 0]);
    let mut import = vec![1, 0];
    string(&mut import, name);
    import.extend([INSTANCE, 0]);
    section(&mut outer, 10, &import);
    section(&mut outer, 4, policy);
    // Instantiate component 0 with nothing: instance 1, after the imported one.
    section(&mut outer, 5, &[1, 0, 0, 0]);
    // Take the interface out of it, as instance 2.
    let mut alias = vec![1, INSTANCE, 0, 1];
    string(&mut alias, DECIDER);
    section(&mut outer, 6, &alias);
    let mut export = vec![1, 0];
    string(&mut export, DECIDER);
    export.extend([INSTANCE, 2, 0]);
    section(&mut outer, 11, &export);
    outer
}

fn section(out: &mut Vec<u8>, id: u8, content: &[u8]) {
    out.push(id);
    leb128(out, content.len());
    out.extend_from_slice(content);
}

fn string(out: &mut Vec<u8>, text: &str) {
    leb128(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn leb128(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = (value & 0x7f).to_le_bytes()[0];
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}
