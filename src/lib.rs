//! podkeeper keeps static Pods running on a container runtime that speaks CRI v1.
//!
//! Desired Pods flow in from [`source`]s, which read them with [`manifest`]; observed state flows
//! in from the runtime through [`cri`]; a pure planner in [`pod`] says what to do next for one Pod,
//! and one task per Pod, under the supervisor in [`node`], does it. [`mirror`] shows all of it at an
//! API server, where there is one. `agent` builds these parts and runs them.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod agent;
pub mod cli;
pub mod config;
pub mod cri;
mod hex;
pub mod host;
pub mod image;
mod json;
mod logs;
pub mod manifest;
mod measure;
pub mod mirror;
pub mod node;
pub mod pod;
pub mod probe;
pub mod server;
pub mod source;
mod text;
pub mod translate;
pub mod units;
pub mod volume;

#[cfg(test)]
mod tests;
