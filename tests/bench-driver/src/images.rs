//! First answers of functions whose runtimes' images differ in length and in nothing that is read: a function starts in the time
//! that what it touches takes.
//!
//! *First* is the first start on a node without any copy, for which each chunk is fetched: the images share what is read. There is one
//! of it, behind one from another runtime, for an agent's first sandbox takes longer. Those after it find copies.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::{
    Figure,
    node::{Caller, Function, SETTLE, SMALLEST_MIB, rest},
    note,
    plan::Plan,
    restarted::restart_without_copies,
    timing::BOOT,
};

const FUNCTION: &str = "image";
const EVENT: &str = r#"{"key":"value"}"#;
const TIMEOUT_S: u32 = 60;
/// Starts that may be lost on the way.
const MAX_LOST: u32 = 3;

pub(crate) fn measure(plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for image in &plan.images {
        restart_without_copies(plan)?;
        let own = Start { runtime: &plan.runtime, zip: &plan.function_zip, handler: &plan.handler };
        own.take(plan)?;
        let this = Start { runtime: &image.runtime, zip: &plan.image_zip, handler: "bootstrap" };
        let (first, lost) = this.take(plan)?;
        if lost {
            note(&format!("the first start from {} was lost, and its time is that of two", image.name));
        }
        let mut again = Vec::new();
        let mut tries = 0;
        while again.len() < plan.image_boots as usize {
            tries += 1;
            ensure!(tries <= plan.image_boots + MAX_LOST, "one start after the other is lost");
            let (us, lost) = this.take(plan)?;
            again.extend((!lost).then_some(us));
        }
        figures.push(Figure::new(format!("image_{}_first_start", image.name), "us", vec![first]));
        figures.push(Figure::new(format!("image_{}_start", image.name), "us", again));
    }
    Ok(figures)
}

/// A function to start.
struct Start<'a> {
    runtime: &'a str,
    zip: &'a Path,
    handler: &'a str,
}

impl Start<'_> {
    /// Creates the function, boots it with a call, deletes it: microseconds to the first byte of the answer, and whether they are those
    /// of anything else than one boot.
    fn take(&self, plan: &Plan) -> Result<(f64, bool)> {
        let caller = Caller::new(plan);
        let Self { runtime, zip, handler } = *self;
        caller.create(&Function {
            name: FUNCTION,
            runtime,
            zip,
            handler,
            memory_mib: SMALLEST_MIB,
            timeout_s: TIMEOUT_S,
        })?;
        rest(SETTLE);
        let answer = caller.answer(FUNCTION, EVENT).with_context(|| format!("start one on {runtime}"))?;
        caller.delete(FUNCTION)?;
        Ok((answer.first_byte_us, answer.timing.way.as_deref() != Some(BOOT)))
    }
}
