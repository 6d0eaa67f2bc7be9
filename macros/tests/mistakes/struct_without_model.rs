use mest_macros::sparse_train;

#[sparse_train(sparsity = 0.9)]
struct Net;

fn main() {}
