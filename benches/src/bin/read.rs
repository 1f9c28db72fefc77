//! Online reads over gRPC: the whole table, as Markdown (see
//! [`granary_benches::wire`]).

use granary_testing::project::BoxError;

fn main() -> Result<(), BoxError> {
    granary_benches::wire::main()
}
