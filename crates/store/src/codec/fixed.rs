//! Values of a fixed width: how they are written, read and ordered.

use std::cmp::Ordering;

use arrow::datatypes::ArrowNativeType;

/// A value that takes a fixed number of bytes in a row, little endian.
pub trait Fixed: ArrowNativeType {
    const WIDTH: usize;

    /// Into the first `WIDTH` bytes of `out`.
    fn write(self, out: &mut [u8]);

    /// From the first `WIDTH` bytes; `None` when there are fewer.
    fn read(from: &[u8]) -> Option<Self>;

    /// Equal: the same bits, or two NaNs.
    fn order(self, other: Self) -> Ordering;
}

macro_rules! fixed {
    ($type:ty, |$a:ident, $b:ident| $order:expr) => {
        impl Fixed for $type {
            const WIDTH: usize = size_of::<$type>();

            #[inline]
            fn write(self, out: &mut [u8]) {
                out[..Self::WIDTH].copy_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn read(from: &[u8]) -> Option<Self> {
                from.first_chunk().map(|bytes| Self::from_le_bytes(*bytes))
            }

            fn order(self, other: Self) -> Ordering {
                let ($a, $b) = (self, other);
                $order
            }
        }
    };
}

fixed!(u8, |a, b| a.cmp(&b));
fixed!(i16, |a, b| a.cmp(&b));
fixed!(i32, |a, b| a.cmp(&b));
fixed!(i64, |a, b| a.cmp(&b));
fixed!(i128, |a, b| a.cmp(&b));
// Every NaN above every number, whatever its sign bit, and all of them alike:
// the next column decides. -0.0 below 0.0.
fixed!(f32, |a, b| match (a.is_nan(), b.is_nan()) {
    (false, false) => a.total_cmp(&b),
    (a_nan, b_nan) => a_nan.cmp(&b_nan),
});
fixed!(f64, |a, b| match (a.is_nan(), b.is_nan()) {
    (false, false) => a.total_cmp(&b),
    (a_nan, b_nan) => a_nan.cmp(&b_nan),
});

/// Runs a generic block with the native type of a fixed-width cell.
macro_rules! with_native {
    ($width:expr, $native:ident => $body:expr) => {
        match $width {
            $crate::codec::shape::Native::Bool => {
                type $native = u8;
                $body
            }
            $crate::codec::shape::Native::I16 => {
                type $native = i16;
                $body
            }
            $crate::codec::shape::Native::I32 => {
                type $native = i32;
                $body
            }
            $crate::codec::shape::Native::I64 => {
                type $native = i64;
                $body
            }
            $crate::codec::shape::Native::I128 => {
                type $native = i128;
                $body
            }
            $crate::codec::shape::Native::F32 => {
                type $native = f32;
                $body
            }
            $crate::codec::shape::Native::F64 => {
                type $native = f64;
                $body
            }
        }
    };
}
pub(super) use with_native;
