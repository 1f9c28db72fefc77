//! Windows against brute force.

pub mod cases;
mod memory;
mod reference;
