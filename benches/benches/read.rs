//! Online reads over gRPC, each row of the table in a small form (see
//! [`granary_benches::wire`]).
//!
//! Run with `cargo bench -p granary-benches --bench read`; it takes what the
//! binary takes, such as `-- --only bare --seconds 3`.

use granary_testing::project::BoxError;

fn main() -> Result<(), BoxError> {
    granary_benches::wire::small()
}
