//! CPU kernels over slices with run-time dispatch, each with a portable twin.
