//! How frames go over a connection: their bytes as they are.

use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use prost::{Message, Name};
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::{Frame, unreadable};
use crate::codec::count_parts;

/// What a call can carry.
pub trait Carried: Sized + Send + 'static {
    /// Writes it.
    ///
    /// # Errors
    /// When there is no room.
    fn write(self, to: &mut EncodeBuf<'_>) -> Result<(), Status>;

    /// Reads it: all that is there.
    ///
    /// # Errors
    /// When that is no such thing.
    fn read(from: &mut DecodeBuf<'_>) -> Result<Self, Status>;
}

impl<M: Message + Name + Default + 'static> Carried for M {
    fn write(self, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.encode(to).map_err(|error| Status::internal(error.to_string()))
    }

    fn read(from: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        // A message lies in one piece: it is gathered before it is decoded.
        count_parts::<M>(from.chunk())?;
        M::decode(from).map_err(|error| unreadable(&error))
    }
}

impl<M: Name + 'static> Carried for Frame<M> {
    fn write(self, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&self.bytes);
        Ok(())
    }

    fn read(from: &mut DecodeBuf<'_>) -> Result<Self, Status> {
        count_parts::<M>(from.chunk())?;
        Ok(Self::new(from.copy_to_bytes(from.remaining())))
    }
}

/// Sends `T` and receives `U`.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<fn(T) -> U>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Carried, U: Carried> tonic::codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = Writes<T>;
    type Decoder = Reads<U>;

    fn encoder(&mut self) -> Self::Encoder {
        Writes(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        Reads(PhantomData)
    }
}

/// See [`Codec`].
#[derive(Debug)]
pub struct Writes<T>(PhantomData<fn(T)>);

impl<T: Carried> Encoder for Writes<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.write(to)
    }
}

/// See [`Codec`].
#[derive(Debug)]
pub struct Reads<U>(PhantomData<fn() -> U>);

impl<U: Carried> Decoder for Reads<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::read(from).map(Some)
    }
}
