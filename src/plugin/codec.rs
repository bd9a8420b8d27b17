//! The protobuf codec of this server, with small buffers: a host has two calls open per task for as long as it runs, and one
//! of them answers with a stream, whose buffer is held all the time. tonic's are 8 KiB each.

use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes of a buffer at first: a sample of statistics takes less. What a larger message needs is added for it.
const FIRST: usize = 512;

/// Bytes that are encoded before they are passed on; as tonic has it.
const YIELD_AT: usize = 32 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Frugal<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Frugal<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Frugal<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(FIRST, YIELD_AT))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(FIRST, YIELD_AT))
    }
}
