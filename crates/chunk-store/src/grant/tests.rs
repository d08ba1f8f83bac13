//! Who reads a grant gets the content or an error, whatever table, slots and agent do.
