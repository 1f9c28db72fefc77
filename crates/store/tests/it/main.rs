//! The store's integration tests.

#[cfg(test)]
mod bundles;
#[cfg(test)]
mod cache;
#[cfg(test)]
mod child;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod events;
#[cfg(test)]
mod facts;
mod merges;
#[cfg(test)]
mod mutants;
#[cfg(test)]
mod processes;
