//! Who asks. Limits, metrics and grants use a [`Caller`] and nothing else of a request.

/// The caller of a request, made once at the edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The verified identity, else the `granary-client` header, else the peer address.
    pub name: String,
    /// The roles that the identity carries; grants name them.
    pub roles: Vec<String>,
}

impl Caller {
    /// A caller without roles.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            roles: Vec::new(),
        }
    }
}
