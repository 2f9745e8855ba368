//! Measurements on the lab: of the application under load, and of how fast nodes come up.

pub mod app;
pub mod drawing;
pub mod figures;
pub mod nodes;
