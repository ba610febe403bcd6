//! Components that misbehave, each in one way.
//!
//! They are written as text, given the real world's type and wrapped as
//! components, so that they differ from a policy only in what they do. Unless
//! said otherwise they describe themselves properly and misbehave when they
//! are asked to decide.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot make its component has failed")]

mod image;
mod wrap;

use image::{DECISION, Image, decision, manifest};

/// The interface that a policy exports.
const DECIDER: &str = "portreeve:policy/decider@0.1.0";

/// Bodies of the functions that differ between components.
struct Parts {
    /// Additional fields of the module.
    fields: &'static str,
    /// Body of `decide`; leaves the address of a decision.
    decide: &'static str,
    /// What the functions answer.
    image: Image,
}

impl Default for Parts {
    fn default() -> Self {
        Self { fields: "", decide: "i32.const 4096", image: image::honest() }
    }
}

impl Parts {
    fn build(self) -> Vec<u8> {
        wrap::component(&self.module())
    }

    /// A core module with the names and signatures of the canonical ABI.
    fn module(&self) -> Vec<u8> {
        let Self { fields, decide, .. } = self;
        let data = self.image.segments();
        let text = format!(
            r#"(module
                (memory (export "memory") 4)
                (global $next (mut i32) (i32.const 131072))
                {data}
                {fields}
                (func (export "cabi_realloc") (param $old i32) (param i32) (param $align i32) (param $size i32) (result i32)
                    (local $at i32)
                    (local.set $at (i32.and
                        (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
                        (i32.sub (i32.const 0) (local.get $align))))
                    (global.set $next (i32.add (local.get $at) (local.get $size)))
                    (block $fits
                        (br_if $fits (i32.le_u (global.get $next) (i32.shl (memory.size) (i32.const 16))))
                        (drop (memory.grow (i32.add (i32.shr_u (local.get $size) (i32.const 16)) (i32.const 1)))))
                    local.get $at)
                (func (export "{DECIDER}#load") (param i32 i32) (result i32) unreachable)
                (func (export "{DECIDER}#ready"))
                (func (export "{DECIDER}#describe") (result i32) i32.const 1024)
                (func (export "{DECIDER}#decide") (param $request i32) (result i32) {decide})
                (func (export "{DECIDER}#validate") (param i32 i32) (result i32) i32.const 16)
                (func (export "{DECIDER}#run-tests") (result i32) i32.const 16))"#
        );
        wat::parse_str(text).expect("the module is well-formed")
    }
}

/// No hostility: allows everything, the same way each time.
pub fn allows() -> Vec<u8> {
    Parts::default().build()
}

/// Never comes back.
pub fn loops() -> Vec<u8> {
    Parts { decide: "(loop $again (br $again)) unreachable", ..Parts::default() }.build()
}

/// Never comes back from being instantiated.
pub fn loops_at_start() -> Vec<u8> {
    Parts { fields: "(func $spin (loop $again (br $again))) (start $spin)", ..Parts::default() }.build()
}

/// Calls itself for ever.
pub fn recurses() -> Vec<u8> {
    Parts {
        fields: "(func $deeper (param i32) (result i32)
            (i32.add (call $deeper (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))",
        decide: "(call $deeper (i32.const 0))",
        ..Parts::default()
    }
    .build()
}

/// Takes a mebibyte after the other.
pub fn allocates() -> Vec<u8> {
    Parts {
        decide: "(loop $again
            (drop (memory.grow (i32.const 16)))
            (br $again)) unreachable",
        ..Parts::default()
    }
    .build()
}

/// Gives up.
pub fn traps() -> Vec<u8> {
    Parts { decide: "unreachable", ..Parts::default() }.build()
}

/// Reads where it has no memory.
pub fn reads_out_of_bounds() -> Vec<u8> {
    Parts { decide: "(i32.load (i32.const -8))", ..Parts::default() }.build()
}

/// Answers with an address that is none.
pub fn points_nowhere() -> Vec<u8> {
    Parts { decide: "(i32.const -4)", ..Parts::default() }.build()
}

/// Answers with an effect that is neither allow nor deny.
pub fn garbage() -> Vec<u8> {
    answers(|image| image.u8(DECISION + decision::EFFECT, 7))
}

/// Answers with text that is not UTF-8.
pub fn garbage_text() -> Vec<u8> {
    answers(|image| image.bytes(DECISION + decision::DETAIL, b"\xff\xfe\xc3"))
}

/// Answers with a reason that is not a code.
pub fn garbage_reason() -> Vec<u8> {
    answers(|image| image.string(DECISION + decision::REASON, "Allowed, trust me"))
}

/// Answers with a trust that does not exist.
pub fn garbage_trust() -> Vec<u8> {
    answers(|image| image.u8(DECISION + decision::TRUST_LEVEL, 200))
}

/// Answers with a million long strings, all in the same place of its memory.
pub fn inflates() -> Vec<u8> {
    answers(|image| {
        let one = image.place(&[b'x'; 400]);
        let entries: Vec<u8> = (0..10_000).flat_map(|_| [one, 400]).flat_map(u32::to_le_bytes).collect();
        let list = image.place(&entries);
        image.pair(DECISION + decision::DECIDING, list, 10_000);
    })
}

/// Denies every second time: its answers depend on its past.
pub fn remembers() -> Vec<u8> {
    Parts {
        fields: "(global $asked (mut i32) (i32.const 0))",
        decide: "(i32.store8 (i32.const 4096) (i32.and (global.get $asked) (i32.const 1)))
            (global.set $asked (i32.add (global.get $asked) (i32.const 1)))
            i32.const 4096",
        ..Parts::default()
    }
    .build()
}

/// The same, and takes memory for it: two mebibytes for each decision.
pub fn hoards() -> Vec<u8> {
    Parts {
        fields: "(global $asked (mut i32) (i32.const 0))",
        decide: "(i32.store8 (i32.const 4096) (i32.and (global.get $asked) (i32.const 1)))
            (global.set $asked (i32.add (global.get $asked) (i32.const 1)))
            (drop (memory.grow (i32.const 32)))
            i32.const 4096",
        ..Parts::default()
    }
    .build()
}

/// Decides once, and gives up after that.
pub fn tires() -> Vec<u8> {
    Parts {
        fields: "(global $asked (mut i32) (i32.const 0))",
        decide: "(if (global.get $asked) (then unreachable))
            (global.set $asked (i32.const 1))
            i32.const 4096",
        ..Parts::default()
    }
    .build()
}

/// Describes a profile with a trust that does not exist.
pub fn lies_in_manifest() -> Vec<u8> {
    answers(|image| {
        let mut profile = [0; manifest::PROFILE_SIZE];
        profile[manifest::PROFILE_TRUST] = 9;
        let list = image.place(&profile);
        image.pair(image::MANIFEST + manifest::PROFILES, list, 1);
    })
}

/// Describes a bundle by something that is not a digest.
pub fn lies_about_digest() -> Vec<u8> {
    answers(|image| image.string(image::MANIFEST + manifest::BUNDLE_DIGEST, "sha256:0"))
}

/// Says that it carries no bundle.
pub fn undescribed() -> Vec<u8> {
    answers(|image| {
        image.u8(image::DESCRIPTION, 1);
        image.string(image::MANIFEST, "no bundle is loaded");
    })
}

/// A proper policy that imports a clock besides.
pub fn imports_something() -> Vec<u8> {
    wrap::importing("wasi:clocks/monotonic-clock@0.2.0", &allows())
}

/// A component that exports nothing.
pub fn wrong_world() -> Vec<u8> {
    text("(component)")
}

/// Exports the interface without most of its functions.
pub fn missing_export() -> Vec<u8> {
    text(&format!(
        r#"(component
            (core module $m (func (export "ready")))
            (core instance $i (instantiate $m))
            (func $ready (canon lift (core func $i "ready")))
            (instance $decider (export "ready" (func $ready)))
            (export "{DECIDER}" (instance $decider)))"#
    ))
}

/// Exports all functions of the interface, with the wrong types.
pub fn wrong_types() -> Vec<u8> {
    let names = ["load", "ready", "describe", "decide", "validate", "run-tests"];
    let exports: String = names.iter().map(|name| format!(r#"(export "{name}" (func $nothing)) "#)).collect();
    text(&format!(
        r#"(component
            (core module $m (func (export "nothing")))
            (core instance $i (instantiate $m))
            (func $nothing (canon lift (core func $i "nothing")))
            (instance $decider {exports})
            (export "{DECIDER}" (instance $decider)))"#
    ))
}

/// Some ten kilobytes that would take the compiler a minute: nested loops over many locals.
pub fn heavy() -> Vec<u8> {
    let (locals, open, close) = ("i32 ".repeat(1_000), "(loop ".repeat(1_000), ")".repeat(1_000));
    text(&format!("(component (core module (func (local {locals}) {open}{close})))"))
}

/// A core module, which is no component.
pub fn core_module() -> Vec<u8> {
    text("(module)")
}

fn answers(change: impl FnOnce(&mut Image)) -> Vec<u8> {
    let mut image = image::honest();
    change(&mut image);
    Parts { image, ..Parts::default() }.build()
}

fn text(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the component is well-formed")
}
