//! What snapshots of different functions on one runtime have in common: what is given to the node's store, and how much of it was
//! not there. Counted by the node itself.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    Figure,
    node::{Caller, Function, SMALLEST_MIB},
    plan::Plan,
};

const TIMEOUT_S: u32 = 60;
/// How many functions there are.
const FUNCTIONS: &[usize] = &[1, 5, 20];

/// The memory of all snapshots on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    /// Bytes, without chunks of zeros.
    given: u64,
    chunks: u64,
    different: u64,
}

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let caller = Caller::new(plan);
    let before = Memory::of(&caller.chunks()?).unwrap_or(Memory { given: 0, chunks: 0, different: 0 });
    let mut figures = Vec::new();
    let most = FUNCTIONS.iter().copied().max().unwrap_or_default();
    for number in 1..=most {
        caller.create(&Function {
            name: &name(number),
            runtime: &plan.runtime,
            zip: &plan.function_zip,
            handler: &plan.handler,
            memory_mib: SMALLEST_MIB,
            timeout_s: TIMEOUT_S,
        })?;
        caller.publish(&name(number))?;
        if FUNCTIONS.contains(&number) {
            let now = Memory::of(&caller.chunks()?).context("the node has no snapshot's memory")?;
            ensure!(now.chunks > before.chunks, "nothing was published");
            let stored = (now.different - before.different) as f64 / (now.chunks - before.chunks) as f64;
            let given = (now.given - before.given) as f64;
            figures.push(Figure::new(format!("dedup_snapshots_{number}_given"), "bytes", vec![given]));
            figures.push(Figure::new(
                format!("dedup_snapshots_{number}_different_of_given"),
                "ratio",
                vec![stored],
            ));
        }
    }
    (1..=most).try_for_each(|number| caller.delete(&name(number)))?;
    Ok(figures)
}

fn name(number: usize) -> String {
    format!("shared-{number}")
}

impl Memory {
    /// What the node says of it; none while there is none.
    fn of(chunks: &Value) -> Option<Self> {
        let kinds = chunks["published"]["by_kind"].as_array()?;
        let memory = kinds.iter().find(|kind| kind["kind"] == "memory")?;
        let number = |name: &str| memory[name].as_u64();
        Some(Self { given: number("given")?, chunks: number("chunks")?, different: number("different")? })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn memory_is_found_among_the_kinds() {
        let kind = |kind: &str, given| json!({ "kind": kind, "contents": 1, "given": given, "chunks": 2, "different": 1 });
        let chunks = json!({ "published": { "by_kind": [kind("code", 1), kind("memory", 32_768)] } });
        assert_eq!(Memory::of(&chunks), Some(Memory { given: 32_768, chunks: 2, different: 1 }));
        assert_eq!(Memory::of(&json!({ "published": { "by_kind": [] } })), None);
    }
}
