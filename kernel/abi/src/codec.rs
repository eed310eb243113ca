//! Fields, one after the other, read and written without padding.

use core::fmt;

/// Why bytes are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The body ends before its last field, or goes on behind it.
    Length {
        /// The message's kind.
        kind: u16,
        /// Bytes of its body.
        bytes: usize,
    },
    /// There is no such kind of message.
    Kind(u16),
    /// A field has a value that means nothing.
    Value {
        /// The message's kind.
        kind: u16,
        /// The field.
        field: &'static str,
        /// What it has.
        raw: u64,
    },
    /// The header says a length that no message has.
    TooLong(u32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { kind, bytes } => {
                write!(f, "a body of {bytes} bytes does not fit messages of kind {kind:#x}")
            }
            Self::Kind(kind) => {
                write!(f, "there is no message of kind {kind:#x}; compare the versions of both sides")
            }
            Self::Value { kind, field, raw } => {
                write!(f, "field {field} of a message of kind {kind:#x} cannot be {raw:#x}")
            }
            Self::TooLong(length) => write!(f, "a message of {length} bytes is longer than messages are"),
        }
    }
}

impl core::error::Error for Error {}

/// A name: 1 to 31 of `a-z`, `0-9` and `-`, with zeros behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name([u8; Self::BYTES]);

impl Name {
    /// Bytes that it takes.
    pub const BYTES: usize = 32;

    /// `None` where it is no name.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Self::from_bytes(bytes)
    }

    fn from_bytes(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let name = Self(bytes);
        let text = name.as_str();
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let ends = bytes.get(text.len()..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
        (!text.is_empty() && text.len() < Self::BYTES && ends && text.bytes().all(allowed)).then_some(name)
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(Self::BYTES);
        self.0.get(..length).and_then(|text| core::str::from_utf8(text).ok()).unwrap_or_default()
    }
}

/// Writes fields into a buffer. What does not fit is noticed at the end.
pub(crate) struct Writer<'a> {
    buffer: &'a mut [u8],
    at: usize,
    overflows: bool,
}

impl<'a> Writer<'a> {
    pub(crate) const fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, at: 0, overflows: false }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        match self.at.checked_add(bytes.len()).and_then(|end| self.buffer.get_mut(self.at..end)) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            None => self.overflows = true,
        }
    }

    /// How many bytes were written, where all had room.
    pub(crate) const fn end(&self) -> Option<usize> {
        if self.overflows { None } else { Some(self.at) }
    }
}

/// Reads the fields of a body.
pub(crate) struct Reader<'a> {
    kind: u16,
    all: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(kind: u16, body: &'a [u8]) -> Self {
        Self { kind, all: body.len(), rest: body }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let taken = self.rest.split_at_checked(count).ok_or(self.length())?;
        self.rest = taken.1;
        Ok(taken.0)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let length = self.length();
        self.take(N)?.first_chunk().copied().ok_or(length)
    }

    /// All of it was read.
    pub(crate) fn end(self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.length()) }
    }

    const fn length(&self) -> Error {
        Error::Length { kind: self.kind, bytes: self.all }
    }

    pub(crate) const fn bad(&self, field: &'static str, raw: u64) -> Error {
        Error::Value { kind: self.kind, field, raw }
    }
}

/// A field of a message.
pub(crate) trait Field<'a>: Sized {
    fn write(&self, to: &mut Writer<'_>);
    fn read(from: &mut Reader<'a>, name: &'static str) -> Result<Self, Error>;
}

macro_rules! number_fields {
    ($($number:ty),*) => {
        $(impl Field<'_> for $number {
            fn write(&self, to: &mut Writer<'_>) {
                to.bytes(&self.to_le_bytes());
            }

            fn read(from: &mut Reader<'_>, _name: &'static str) -> Result<Self, Error> {
                Ok(<$number>::from_le_bytes(from.array()?))
            }
        })*
    };
}

number_fields!(u8, u16, u32, u64);

impl Field<'_> for bool {
    fn write(&self, to: &mut Writer<'_>) {
        to.bytes(&[u8::from(*self)]);
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, Error> {
        match u8::read(from, name)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(from.bad(name, other.into())),
        }
    }
}

impl Field<'_> for Name {
    fn write(&self, to: &mut Writer<'_>) {
        to.bytes(&self.0);
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, Error> {
        let bytes: [u8; Self::BYTES] = from.array()?;
        Self::from_bytes(bytes).ok_or(from.bad(name, bytes.first().copied().unwrap_or_default().into()))
    }
}

impl<const N: usize> Field<'_> for [u64; N] {
    fn write(&self, to: &mut Writer<'_>) {
        self.iter().for_each(|number| number.write(to));
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, Error> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = u64::read(from, name)?;
        }
        Ok(numbers)
    }
}

/// Bytes at the end of a message, behind their length.
impl<'a> Field<'a> for &'a [u8] {
    fn write(&self, to: &mut Writer<'_>) {
        // What is longer than a length can say has no room anyway.
        u32::try_from(self.len()).unwrap_or(u32::MAX).write(to);
        to.bytes(self);
    }

    fn read(from: &mut Reader<'a>, name: &'static str) -> Result<Self, Error> {
        let length = u32::read(from, name)?;
        from.take(length as usize)
    }
}

/// An enumeration as a field: names with their numbers.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident: $number:ty { $($(#[$about:meta])* $choice:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr($number)]
        pub enum $name {
            $($(#[$about])* $choice = $value,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$choice,)*];
        }

        impl $crate::codec::Field<'_> for $name {
            fn write(&self, to: &mut $crate::codec::Writer<'_>) {
                (*self as $number).write(to);
            }

            fn read(from: &mut $crate::codec::Reader<'_>, name: &'static str) -> Result<Self, $crate::Error> {
                match <$number>::read(from, name)? {
                    $($value => Ok(Self::$choice),)*
                    other => Err(from.bad(name, other.into())),
                }
            }
        }
    };
}

/// Messages of a direction: kinds with their numbers and fields.
macro_rules! messages {
    ($(#[$doc:meta])* $name:ident<'a> { $($(#[$about:meta])* $kind:ident = $value:literal { $($(#[$what:meta])* $field:ident: $type:ty,)* })* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name<'a> {
            $($(#[$about])* $kind { $($(#[$what])* $field: $type,)* },)*
            #[doc(hidden)]
            __Lifetime(core::convert::Infallible, core::marker::PhantomData<&'a ()>),
        }

        impl<'a> $name<'a> {
            /// All kinds: name and number.
            pub const KINDS: &'static [(&'static str, u16)] = &[$((stringify!($kind), $value),)*];

            /// The number of its kind.
            pub const fn kind(&self) -> u16 {
                match self {
                    $(Self::$kind { .. } => $value,)*
                    Self::__Lifetime(never, _) => match *never {},
                }
            }

            /// Writes a message with this id, and says how long it is. `None` where it does not fit into the buffer.
            pub fn write(&self, id: u64, buffer: &mut [u8]) -> Option<usize> {
                $crate::frame::write(self.kind(), id, buffer, |to| match self {
                    $(Self::$kind { $($field,)* } => { let _ = &to; $($crate::codec::Field::write($field, to);)* })*
                    Self::__Lifetime(never, _) => match *never {},
                })
            }

            /// Reads the body of a message of that kind.
            ///
            /// # Errors
            /// See [`crate::Error`].
            pub fn read(kind: u16, body: &'a [u8]) -> Result<Self, $crate::Error> {
                let mut from = $crate::codec::Reader::new(kind, body);
                let read = match kind {
                    $($value => Self::$kind { $($field: $crate::codec::Field::read(&mut from, stringify!($field))?,)* },)*
                    _ => return Err($crate::Error::Kind(kind)),
                };
                from.end()?;
                Ok(read)
            }
        }
    };
}

pub(crate) use {choices, messages};
