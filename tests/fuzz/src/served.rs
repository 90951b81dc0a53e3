//! A participant that is really served, and called with anything over a real connection.
//!
//! What the targets leave out is here: the server's own handlers, their tasks, and the headers. It is slower
//! by two orders of magnitude, and a finding is had again by its seed only.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut};
use handfast_commit_core::id::TransactionId;
use handfast_journal::{Kind, MemoryDisk, MemoryJournal};
use handfast_participant::resources::key_value::{KeyValueConfig, KeyValueGrpc, KeyValueStore};
use handfast_participant::{Participant, Routes, Running};
use handfast_wire::v1;
use handfast_wire::v1::key_value_service_server::KeyValueServiceServer;
use handfast_wire::v1::participant_service_client::ParticipantServiceClient;
use prost::Message;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::messages::Sample;
use crate::mutate::mutated;
use crate::random::Random;

/// Participants, one after the other: each is deaf to all that is older than the highest epoch it was told of.
const PARTICIPANTS: usize = 60;
/// Calls of each.
const CALLS: usize = 60;
/// Nothing listens there.
const NOWHERE: &str = "http://127.0.0.1:1";
const SEED: u64 = 1;
const NAME: &str = "a";

/// Messages are sent as the bytes that they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; from.remaining()];
        from.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// A request to the participant.
trait Aimed: Sample {
    /// Endpoints that lead nowhere: a participant asks whom it is told of.
    fn lead_nowhere(&mut self) {}
    /// Addresses the participant.
    fn address(&mut self) {}
}

impl Aimed for v1::PrepareRequest {
    fn lead_nowhere(&mut self) {
        origin_nowhere(&mut self.origin);
        for peer in &mut self.peers {
            peer.endpoint = NOWHERE.to_owned();
        }
    }

    fn address(&mut self) {
        self.participant = NAME.to_owned();
        self.peers.retain(|peer| peer.participant == "b");
        self.carries_work = true;
        origin_of(&self.transaction_id, &mut self.origin);
    }
}

impl Aimed for v1::CommitRequest {
    fn lead_nowhere(&mut self) {
        origin_nowhere(&mut self.origin);
    }

    fn address(&mut self) {
        self.participant = NAME.to_owned();
    }
}

impl Aimed for v1::AbortRequest {
    fn lead_nowhere(&mut self) {
        origin_nowhere(&mut self.origin);
    }

    fn address(&mut self) {
        self.participant = NAME.to_owned();
    }
}

impl Aimed for v1::PreCommitRequest {
    fn address(&mut self) {
        self.participant = NAME.to_owned();
    }
}

impl Aimed for v1::ListInDoubtRequest {
    fn address(&mut self) {
        self.participant = NAME.to_owned();
    }
}

impl Aimed for v1::InquirePeerRequest {
    fn address(&mut self) {
        self.peer = NAME.to_owned();
    }
}

impl Aimed for v1::ApplyRequest {}

impl Aimed for v1::SessionRequest {
    fn lead_nowhere(&mut self) {
        origin_nowhere(&mut self.origin);
        for message in &mut self.messages {
            if let Some(v1::coordinator_message::Message::Prepare(prepare)) = &mut message.message {
                prepare.lead_nowhere();
            }
        }
    }

    fn address(&mut self) {
        use v1::coordinator_message::Message;
        self.hello = None;
        self.origin = None;
        for message in &mut self.messages {
            match &mut message.message {
                Some(Message::Prepare(prepare)) => prepare.address(),
                Some(Message::Commit(commit)) => commit.address(),
                Some(Message::Abort(abort)) => abort.address(),
                Some(Message::Forget(forget)) => forget.participant = NAME.to_owned(),
                Some(Message::Order(_) | Message::InquiryAnswer(_)) | None => {}
            }
        }
    }
}

fn origin_nowhere(origin: &mut Option<v1::Origin>) {
    if let Some(origin) = origin {
        origin.coordinator_endpoint = NOWHERE.to_owned();
    }
}

/// A sender that may begin this transaction.
fn origin_of(id: &str, origin: &mut Option<v1::Origin>) {
    if let Ok(id) = id.parse::<TransactionId>() {
        let origin = origin.get_or_insert_default();
        (origin.slot, origin.epoch) = (u32::from(id.slot().0), id.epoch().0);
        origin.lowest_live_sequence = 0;
    }
}

/// A message, or bytes that are none.
fn bytes_of<M: Aimed>(random: &mut Random) -> Vec<u8> {
    let mut message = M::sample(random);
    message.lead_nowhere();
    if !random.one_in(4) {
        message.address();
    }
    let bytes = message.encode_to_vec();
    if random.one_in(2) {
        return bytes;
    }
    let bytes = mutated(random, &bytes, b"");
    match M::decode(&bytes[..]) {
        Ok(mut message) => {
            message.lead_nowhere();
            message.encode_to_vec()
        }
        Err(_) => bytes,
    }
}

async fn serve() -> Running {
    let journal =
        MemoryJournal::open(&MemoryDisk::new(1), Kind::Participant).expect("an empty disk");
    let builder = Participant::builder(NAME).coordinator(NOWHERE);
    let opened = builder.open_on(Box::new(journal), "memory").expect("sound settings");
    let config = KeyValueConfig { lock_wait: Duration::from_millis(1) };
    let store = KeyValueStore::open(opened.store().reader(), config).expect("an empty journal");
    let store = Arc::new(store);
    let service = KeyValueServiceServer::new(KeyValueGrpc::new(store.clone(), opened.handle()));
    opened.serve(store, Routes::new(service)).await.expect("a free port")
}

async fn call(channel: &Channel, random: &mut Random) {
    let (path, bytes) = match random.below(8) {
        0 | 1 => ("ParticipantService/Prepare", bytes_of::<v1::PrepareRequest>(random)),
        2 => ("ParticipantService/Commit", bytes_of::<v1::CommitRequest>(random)),
        3 => ("ParticipantService/Abort", bytes_of::<v1::AbortRequest>(random)),
        4 => ("ParticipantService/PreCommit", bytes_of::<v1::PreCommitRequest>(random)),
        5 => ("ParticipantService/ListInDoubt", bytes_of::<v1::ListInDoubtRequest>(random)),
        6 => ("PeerService/InquirePeer", bytes_of::<v1::InquirePeerRequest>(random)),
        _ => ("KeyValueService/Apply", bytes_of::<v1::ApplyRequest>(random)),
    };
    let mut request = Request::new(bytes);
    if random.one_in(8) {
        let units = ["n", "u", "m", "S", "M", "H", "x", ""];
        let header = format!("{}{}", random.number(), random.pick(&units));
        let header = MetadataValue::try_from(header).expect("digits and letters");
        request.metadata_mut().insert("grpc-timeout", header);
    }
    let path = format!("/handfast.v1.{path}").try_into().expect("a path");
    let mut client = Grpc::new(channel.clone());
    client.ready().await.expect("a connection");
    let answer = tokio::time::timeout(Duration::from_millis(50), client.unary(request, path, Raw));
    if let Ok(Err(status)) = answer.await {
        assert!(
            !status.message().is_empty() || status.code() == tonic::Code::Cancelled,
            "{status:?}"
        );
    }
}

/// Frames, of which the first mostly opens a session, and a moment for what comes back.
async fn session(channel: &Channel, random: &mut Random, number: u64) {
    let mut first = v1::SessionRequest::sample(random);
    first.lead_nowhere();
    if !random.one_in(4) {
        first.hello = Some(v1::SessionHello { participant: NAME.to_owned(), session: number });
        let origin = first.origin.get_or_insert_default();
        (origin.slot, origin.epoch) = (0, 1 + random.next() % 3);
    }
    let mut frames = vec![first.encode_to_vec()];
    frames.extend((0..random.below(6)).map(|_| bytes_of::<v1::SessionRequest>(random)));
    let path = "/handfast.v1.ParticipantService/Session".try_into().expect("a path");
    let mut client = Grpc::new(channel.clone());
    client.ready().await.expect("a connection");
    let frames = Request::new(tokio_stream::iter(frames));
    let opened = tokio::time::timeout(Duration::from_millis(50), async {
        let mut answers = client.streaming(frames, path, Raw).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<_, Status>(())
    });
    let _ = opened.await;
}

#[tokio::test]
async fn a_participant_survives_whatever_it_is_called_with() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(panic);
    }));
    let mut random = Random::new(SEED);
    let mut in_doubt = 0;
    for participant in 0..PARTICIPANTS {
        let running = serve().await;
        let endpoint = Endpoint::from_shared(format!("http://{}", running.address()));
        let channel = endpoint.expect("an address").connect_lazy();
        for number in 0..CALLS {
            if random.one_in(10) {
                session(&channel, &mut random, number as u64).await;
            } else {
                call(&channel, &mut random).await;
            }
            let panics = PANICS.load(Ordering::Relaxed);
            assert_eq!(panics, 0, "call {number} of participant {participant} of seed {SEED}");
        }
        let list = v1::ListInDoubtRequest { participant: NAME.to_owned(), ..Default::default() };
        let listed = ParticipantServiceClient::new(channel).list_in_doubt(list).await;
        in_doubt += listed.expect("it is there and answers").into_inner().branches.len();
        drop(running);
    }
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
    assert!(in_doubt > 0, "nothing was ever prepared: hardly anything was understood");
}
