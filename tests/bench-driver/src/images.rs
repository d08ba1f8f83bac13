//! First answers of functions whose runtimes' images differ in length and in nothing that is read: a function starts in the time
//! that what it touches takes.
//!
//! *First* is the first start on this node, for which each chunk is fetched; there is one of it. Those behind it find copies.

use anyhow::{Result, ensure};

use crate::{
    Figure,
    node::{Caller, Function, SETTLE, rest},
    note,
    plan::{Image, Plan},
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
        let (first, lost) = start(plan, image)?;
        if lost {
            note(&format!("the first start from {} was lost, and its time is that of two", image.name));
        }
        let mut again = Vec::new();
        let mut tries = 0;
        while again.len() < plan.image_boots as usize {
            tries += 1;
            ensure!(tries <= plan.image_boots + MAX_LOST, "one start after the other is lost");
            let (us, lost) = start(plan, image)?;
            again.extend((!lost).then_some(us));
        }
        figures.push(Figure::new(format!("image_{}_first_start", image.name), "us", vec![first]));
        figures.push(Figure::new(format!("image_{}_start", image.name), "us", again));
    }
    Ok(figures)
}

/// Creates a function, boots it with a call, deletes it: microseconds to the first byte of the answer, and whether they are those of
/// anything else than one boot.
fn start(plan: &Plan, image: &Image) -> Result<(f64, bool)> {
    let caller = Caller::new(plan);
    caller.create(&Function {
        name: FUNCTION,
        runtime: &image.runtime,
        zip: &plan.image_zip,
        handler: "bootstrap",
        timeout_s: TIMEOUT_S,
    })?;
    rest(SETTLE);
    let answer = caller.invoke(FUNCTION, None, EVENT)?;
    caller.delete(FUNCTION)?;
    ensure!(!answer.failed, "the function on {} failed", image.runtime);
    Ok((answer.first_byte_us, answer.timing.way.as_deref() != Some(BOOT)))
}
