//! The node's functions: their record, their store and the view of it that requests read.

pub(crate) mod model;
