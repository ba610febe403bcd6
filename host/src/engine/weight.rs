//! What compiling a component may take, told before it is begun: a compilation cannot be stopped.
//!
//! Cranelift's work grows with a function's code, and wherever control flow joins, above all at the head of a loop, with the
//! locals that may be alive there. Nested loops over many locals, in a file of forty kilobytes, would take a minute and
//! gigabytes. So functions are weighed as code that compiles people's programs never is.

use wasmparser::{BinaryReaderError, FunctionBody, Operator, Parser, Payload};

use super::error::EngineError;

/// A measure with what one function may have of it, and what all may. The component that the program carries has at most
/// 57,644, 180,565 and 15,477 in one, and 5.2, 2.5 and 0.24 million in all; it compiles in some seconds.
struct Limit {
    what: &'static str,
    one: u64,
    all: u64,
}

const CODE: Limit = Limit { what: "bytes of code", one: 4 << 20, all: 24 << 20 };
const BLOCKS: Limit = Limit { what: "locals times blocks", one: 1_000_000, all: 10_000_000 };
const LOOPS: Limit = Limit { what: "locals times loops", one: 100_000, all: 1_000_000 };

/// What a function has, or all functions.
#[derive(Debug, Default, Clone, Copy)]
struct Weight {
    bytes: u64,
    blocks: u64,
    loops: u64,
}

/// Refuses what would take too long.
///
/// # Errors
/// [`EngineError::NotAComponent`] when it is too heavy, or cannot be read.
pub(super) fn check(bytes: &[u8]) -> Result<(), EngineError> {
    let unreadable = |error: BinaryReaderError| EngineError::NotAComponent(error.to_string());
    let (mut all, mut params) = (Weight::default(), 0_u64);
    // Modules inside of components are part of what is parsed.
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(unreadable)? {
            // The widest function's parameters are counted for each: which is whose need not be known.
            Payload::TypeSection(types) => {
                for group in types {
                    for kind in group.map_err(unreadable)?.types() {
                        if let wasmparser::CompositeInnerType::Func(function) = &kind.composite_type.inner {
                            params = params.max(u64::try_from(function.params().len()).unwrap_or(u64::MAX));
                        }
                    }
                }
            }
            Payload::CodeSectionEntry(body) => {
                let one = weigh(&body, params).map_err(unreadable)?;
                all.bytes = all.bytes.saturating_add(one.bytes);
                all.blocks = all.blocks.saturating_add(one.blocks);
                all.loops = all.loops.saturating_add(one.loops);
                one.within("one of its functions has", |limit| limit.one)?;
            }
            _ => {}
        }
    }
    all.within("its functions have", |limit| limit.all)
}

fn weigh(body: &FunctionBody<'_>, params: u64) -> Result<Weight, BinaryReaderError> {
    let mut locals = params;
    for entry in body.get_locals_reader()? {
        let (count, _) = entry?;
        locals = locals.saturating_add(u64::from(count));
    }
    let (mut blocks, mut loops) = (0_u64, 0_u64);
    for operator in body.get_operators_reader()? {
        match operator? {
            Operator::Loop { .. } => loops = loops.saturating_add(1),
            Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                blocks = blocks.saturating_add(1)
            }
            _ => {}
        }
    }
    Ok(Weight {
        bytes: u64::try_from(body.as_bytes().len()).unwrap_or(u64::MAX),
        blocks: blocks.saturating_add(loops).saturating_mul(locals),
        loops: loops.saturating_mul(locals),
    })
}

impl Weight {
    fn within(self, who: &str, most: fn(&Limit) -> u64) -> Result<(), EngineError> {
        for (limit, found) in [(CODE, self.bytes), (BLOCKS, self.blocks), (LOOPS, self.loops)] {
            let most = most(&limit);
            if found > most {
                let Limit { what, .. } = limit;
                return Err(EngineError::NotAComponent(format!(
                    "compiling it would take too long: {who} {found} {what}, at most {most} are compiled"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wasm_encoder::{CodeSection, Function, FunctionSection, Module, TypeSection, ValType};

    use super::*;
    use crate::engine::engine_component;

    /// A function with nested loops, and its locals as locals or as parameters.
    fn nested(loops: usize, locals: u32, params: usize) -> Vec<u8> {
        let (mut types, mut functions, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
        types.ty().function(vec![ValType::I32; params], []);
        functions.function(0);
        let mut function = Function::new([(locals, ValType::I32)]);
        for _ in 0..loops {
            function.instructions().loop_(wasm_encoder::BlockType::Empty);
        }
        for _ in 0..=loops {
            function.instructions().end();
        }
        code.function(&function);
        Module::new().section(&types).section(&functions).section(&code).clone().finish()
    }

    #[test]
    fn what_the_program_carries_is_light_and_nested_loops_over_many_locals_are_not() {
        check(engine_component()).unwrap();
        check(&nested(100, 900, 0)).unwrap();
        for (loops, locals, params) in [(400, 300, 0), (1_000, 0, 900), (100_001, 1, 0)] {
            let refused = check(&nested(loops, locals, params)).unwrap_err().to_string();
            assert!(refused.contains("too long") && refused.contains("times loops"), "{refused}");
        }
    }
}
