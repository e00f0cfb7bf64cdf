//! Metadata values, and how each is stored.

use super::cursor::{Cursor, Element, Fault};

/// Code of an array in the file; the other codes stand in the table below.
const ARRAY: u32 = 9;

/// Declares [`Value`] and [`Array`] from one table: variant, Rust type, code in the file, name.
macro_rules! values {
    ($($variant:ident($type:ty) = $code:literal, $name:literal;)*) => {
        /// A metadata value.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Value {
            $(
                #[doc = concat!("One ", $name, ".")]
                $variant($type),
            )*
            /// Any number of values of one type.
            Array(Array),
        }

        /// A metadata array. Arrays of arrays are refused, as llama.cpp does.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Array {
            $(
                #[doc = concat!("Elements of type ", $name, ".")]
                $variant(Vec<$type>),
            )*
        }

        impl Value {
            /// The type in words: `"u32"`, `"string"`, `"array of f32"`, …
            #[must_use]
            pub const fn type_name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                    Self::Array(array) => match array {
                        $(Array::$variant(_) => concat!("array of ", $name),)*
                    },
                }
            }

            /// Reads the value that the cursor stands at: its type, then its bytes.
            pub(super) fn read(cursor: &mut Cursor) -> Result<Self, Fault> {
                match u32::read(cursor)? {
                    $($code => Ok(Self::$variant(<$type>::read(cursor)?)),)*
                    ARRAY => match u32::read(cursor)? {
                        $($code => Ok(Self::Array(Array::$variant(cursor.elements()?))),)*
                        ARRAY => Err(cursor.fault("is an array of arrays, expected a flat one")),
                        code => Err(cursor.fault(format!("is an array of unknown type {code}"))),
                    },
                    code => Err(cursor.fault(format!("is of unknown type {code}"))),
                }
            }

            /// Appends the type and the bytes.
            pub(super) fn write(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant(value) => {
                        u32::write(&$code, out);
                        value.write(out);
                    })*
                    Self::Array(array) => {
                        ARRAY.write(out);
                        match array {
                            $(Array::$variant(values) => {
                                u32::write(&$code, out);
                                (values.len() as u64).write(out);
                                values.iter().for_each(|value| value.write(out));
                            })*
                        }
                    }
                }
            }
        }

        $(
            impl From<$type> for Value {
                fn from(value: $type) -> Self {
                    Self::$variant(value)
                }
            }

            impl From<Vec<$type>> for Value {
                fn from(values: Vec<$type>) -> Self {
                    Self::Array(Array::$variant(values))
                }
            }
        )*
    };
}

values! {
    U8(u8)         =  0, "u8";
    I8(i8)         =  1, "i8";
    U16(u16)       =  2, "u16";
    I16(i16)       =  3, "i16";
    U32(u32)       =  4, "u32";
    I32(i32)       =  5, "i32";
    F32(f32)       =  6, "f32";
    Bool(bool)     =  7, "bool";
    String(String) =  8, "string";
    U64(u64)       = 10, "u64";
    I64(i64)       = 11, "i64";
    F64(f64)       = 12, "f64";
}

impl From<Array> for Value {
    fn from(array: Array) -> Self {
        Self::Array(array)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

/// Views of a value as one kind of thing; `None` when it is another.
impl Value {
    /// A string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(value) = self { Some(value) } else { None }
    }

    /// An integer of any type that is not negative.
    #[must_use]
    pub fn as_uint(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// A floating-point number of either type.
    #[must_use]
    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    /// A boolean.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = *self { Some(value) } else { None }
    }

    /// An array of strings.
    #[must_use]
    pub fn as_strings(&self) -> Option<&[String]> {
        if let Self::Array(Array::String(values)) = self { Some(values) } else { None }
    }

    /// An array of F32.
    #[must_use]
    pub fn as_f32s(&self) -> Option<&[f32]> {
        if let Self::Array(Array::F32(values)) = self { Some(values) } else { None }
    }

    /// An array of I32.
    #[must_use]
    pub fn as_i32s(&self) -> Option<&[i32]> {
        if let Self::Array(Array::I32(values)) = self { Some(values) } else { None }
    }

    /// An array of integers of any type, none negative.
    #[must_use]
    pub fn as_uints(&self) -> Option<Vec<u64>> {
        fn widen<T: Copy + TryInto<u64>>(values: &[T]) -> Option<Vec<u64>> {
            values.iter().map(|&value| value.try_into().ok()).collect()
        }
        let Self::Array(array) = self else {
            return None;
        };
        match array {
            Array::U8(values) => widen(values),
            Array::U16(values) => widen(values),
            Array::U32(values) => widen(values),
            Array::U64(values) => widen(values),
            Array::I8(values) => widen(values),
            Array::I16(values) => widen(values),
            Array::I32(values) => widen(values),
            Array::I64(values) => widen(values),
            _ => None,
        }
    }
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl Element for $type {
            const N_BYTE: usize = size_of::<$type>();

            fn read(cursor: &mut Cursor) -> Result<Self, Fault> {
                cursor.array().map(Self::from_le_bytes)
            }

            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        })*
    };
}

numbers!(u8, i8, u16, i16, u32, i32, f32, u64, i64, f64);

impl Element for bool {
    const N_BYTE: usize = 1;

    fn read(cursor: &mut Cursor) -> Result<Self, Fault> {
        match u8::read(cursor)? {
            0 => Ok(false),
            1 => Ok(true),
            byte => Err(cursor.fault(format!("holds the boolean {byte}, expected 0 or 1"))),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        u8::from(*self).write(out);
    }
}

impl Element for String {
    const N_BYTE: usize = size_of::<u64>();

    fn read(cursor: &mut Cursor) -> Result<Self, Fault> {
        let n_byte = u64::read(cursor)?;
        let bytes = cursor.take(n_byte)?;
        match str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => {
                let start = bytes[..bytes.len().min(32)].escape_ascii();
                Err(cursor.fault(format!("holds a string that is not UTF-8: \"{start}\"")))
            }
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        (self.len() as u64).write(out);
        out.extend_from_slice(self.as_bytes());
    }
}
