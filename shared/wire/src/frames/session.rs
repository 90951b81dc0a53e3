//! The frames of a session.

use bytes::Bytes;
use handfast_commit_core::id::{Incarnation, ParticipantName, TransactionId};
use handfast_commit_core::limits;
use handfast_commit_core::message::{FromParticipant, Prepare, ToParticipant, Vote};
use prost::{DecodeError, Message};

use super::reader::{self, Reader, Repeated};
use super::writer::{
    ID_BYTES, field_len, put_bytes, put_fixed64, put_id, put_length, put_message, put_number,
    put_some,
};
use super::{Frame, Names, SessionRequest, SessionResponse, alone};
use crate::convert::{self, FromSession, InvalidField, PrepareOrder};
use crate::{site, v1};

/// The fields of both kinds of frames: what stands around the messages, and the messages.
const FIRST: u8 = reader::bytes(1);
const MESSAGES: u8 = reader::bytes(2);
const ORIGIN: u8 = reader::bytes(3);
/// The field of every message that names its transaction.
const ID: u8 = reader::bytes(1);

/// What is around a message and its own fields in a frame: for a guess at the length of one.
const MESSAGE_BYTES: usize = 160;

// ---- what a coordinator says --------------------------------------------------------------------

/// What a participant is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// To prepare. It names this participant, and whatever [`convert::prepare`] checks is right.
    Prepare(PrepareOrder),
    /// To commit. It names this participant.
    Commit {
        /// Which transaction.
        id: TransactionId,
        /// Of the participant's log that voted.
        incarnation: Incarnation,
    },
    /// Anything else, or in another form.
    Other(Box<v1::CoordinatorMessage>),
}

/// What is around the messages of a coordinator's frame.
#[derive(Debug)]
pub struct CoordinatorMessages<'a> {
    /// First in a session.
    pub hello: Option<v1::SessionHello>,
    /// Who speaks.
    pub origin: Option<v1::Origin>,
    frame: &'a Bytes,
    messages: Messages<'a, v1::CoordinatorMessage>,
}

/// Messages that have been read, or that are still to be.
#[derive(Debug)]
enum Messages<'a, M> {
    Usual(Repeated<'a>),
    Read(std::vec::IntoIter<M>),
}

impl<M> Messages<'_, M> {
    fn len(&self) -> usize {
        match self {
            Self::Usual(fields) => fields.len(),
            Self::Read(messages) => messages.len(),
        }
    }
}

impl SessionRequest {
    /// Reads what is around the messages.
    ///
    /// # Errors
    /// When it is no such frame.
    pub fn read(&self) -> Result<CoordinatorMessages<'_>, DecodeError> {
        let frame = self.as_bytes();
        if let Some(Fields { first, messages, last }) = around(frame) {
            let hello = first.map(v1::SessionHello::decode).transpose();
            let origin = last.map(v1::Origin::decode).transpose();
            if let (Ok(hello), Ok(origin)) = (hello, origin) {
                let messages = Messages::Usual(messages);
                return Ok(CoordinatorMessages { hello, origin, frame, messages });
            }
        }
        let v1::SessionRequest { hello, messages, origin } = self.decode()?;
        let messages = Messages::Read(messages.into_iter());
        Ok(CoordinatorMessages { hello, origin, frame, messages })
    }
}

/// The fields of a frame.
struct Fields<'a> {
    first: Option<&'a [u8]>,
    messages: Repeated<'a>,
    last: Option<&'a [u8]>,
}

/// The fields of a frame in the usual form.
fn around(frame: &[u8]) -> Option<Fields<'_>> {
    let mut fields = Reader::new(frame);
    let first = if fields.again(FIRST) { Some(fields.bytes()?) } else { None };
    let messages = fields.repeated(MESSAGES)?;
    let last = if fields.again(ORIGIN) { Some(fields.bytes()?) } else { None };
    fields.is_empty().then_some(Fields { first, messages, last })
}

impl CoordinatorMessages<'_> {
    /// How many are still to be read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.messages.len()
    }

    /// The next message, read by the participant that is called `own`.
    ///
    /// # Errors
    /// When it is none.
    #[inline]
    pub fn next(
        &mut self,
        own: &ParticipantName,
        names: &mut Names,
    ) -> Option<Result<Order, DecodeError>> {
        match &mut self.messages {
            Messages::Usual(fields) => {
                let (message, field) = fields.next()?;
                let usual = order(self.frame, message, own, names);
                Some(usual.map_or_else(|| other_order(self.frame, field), Ok))
            }
            Messages::Read(messages) => Some(Ok(Order::Other(Box::new(messages.next()?)))),
        }
    }
}

/// A message by itself, read as in its frame.
#[cold]
fn other_order(frame: &Bytes, field: &[u8]) -> Result<Order, DecodeError> {
    let message = alone::<v1::SessionRequest>(frame, field)?.messages.pop();
    Ok(Order::Other(Box::new(message.unwrap_or_default())))
}

const PREPARE: u8 = reader::bytes(1);
const COMMIT: u8 = reader::bytes(2);

fn order(frame: &Bytes, message: &[u8], own: &ParticipantName, names: &mut Names) -> Option<Order> {
    let mut fields = Reader::new(message);
    match fields.key()? {
        PREPARE => prepare(frame, fields.last_bytes()?, own, names).map(Order::Prepare),
        COMMIT => commit(fields.last_bytes()?, own),
        _ => None,
    }
}

const PREPARE_CARRIES_WORK: u8 = reader::varint(3);
const PREPARE_PAYLOAD: u8 = reader::bytes(4);
const PREPARE_PEERS: u8 = reader::bytes(5);
const PREPARE_ONE_PHASE: u8 = reader::varint(6);
const PREPARE_REQUEST_ID: u8 = reader::bytes(7);
const PREPARE_PARTICIPANT: u8 = reader::bytes(8);
const PREPARE_VOTING: u8 = reader::bytes(9);
const PEER_PARTICIPANT: u8 = reader::bytes(1);
const PEER_ENDPOINT: u8 = reader::bytes(2);

fn prepare(
    frame: &Bytes,
    request: &[u8],
    own: &ParticipantName,
    names: &mut Names,
) -> Option<PrepareOrder> {
    let mut fields = Reader::new(request);
    let (mut id, mut participant, mut payload) = (None, None, None);
    let (mut carries_work, mut one_phase) = (false, false);
    let (mut request_id, mut voting, mut peers) = (None, None, Vec::new());
    while !fields.is_empty() {
        match fields.key()? {
            ID => id = Some(TransactionId::from_text(fields.bytes()?)?),
            PREPARE_CARRIES_WORK => carries_work = fields.varint()? != 0,
            PREPARE_PAYLOAD => payload = Some(fields.bytes()?),
            PREPARE_PEERS => {
                peers.push(peer(fields.bytes()?, names)?);
                while fields.again(PREPARE_PEERS) {
                    peers.push(peer(fields.bytes()?, names)?);
                }
            }
            PREPARE_ONE_PHASE => one_phase = fields.varint()? != 0,
            PREPARE_REQUEST_ID => request_id = convert::request_id(fields.text()?).ok()?,
            PREPARE_PARTICIPANT => participant = Some(fields.bytes()?),
            PREPARE_VOTING => voting = Some(v1::VotingSites::decode(fields.bytes()?).ok()?),
            _ => return None,
        }
    }
    if participant? != own.as_str().as_bytes() {
        return None;
    }
    let payload = payload.unwrap_or_default();
    if payload.len() > limits::PAYLOAD_BYTES_MAX || peers.len() >= limits::BRANCHES_MAX {
        return None;
    }
    let voting = match voting {
        Some(voting) => Some(Box::new(site::voting(&voting, own.as_str()).ok()?)),
        None => None,
    };
    let prepare = Prepare {
        id: id?,
        work: carries_work.then(|| frame.slice_ref(payload)),
        peers: peers.iter().map(|(name, _)| ParticipantName::clone(name)).collect(),
        one_phase,
        request_id,
        voting,
    };
    Some(PrepareOrder { prepare, peers })
}

fn peer(message: &[u8], names: &mut Names) -> Option<(ParticipantName, String)> {
    let mut fields = Reader::new(message);
    let (mut name, mut endpoint) = (None, "");
    while !fields.is_empty() {
        match fields.key()? {
            PEER_PARTICIPANT => name = Some(names.read(fields.bytes()?)?),
            PEER_ENDPOINT => endpoint = fields.text()?,
            _ => return None,
        }
    }
    Some((name?, endpoint.to_owned()))
}

const COMMIT_INCARNATION: u8 = reader::fixed64(3);
const COMMIT_PARTICIPANT: u8 = reader::bytes(4);

fn commit(request: &[u8], own: &ParticipantName) -> Option<Order> {
    let mut fields = Reader::new(request);
    let (mut id, mut participant, mut incarnation) = (None, None, 0);
    while !fields.is_empty() {
        match fields.key()? {
            ID => id = Some(TransactionId::from_text(fields.bytes()?)?),
            COMMIT_INCARNATION => incarnation = fields.fixed64()?,
            COMMIT_PARTICIPANT => participant = Some(fields.bytes()?),
            _ => return None,
        }
    }
    let named = participant? == own.as_str().as_bytes();
    named.then_some(Order::Commit { id: id?, incarnation: Incarnation(incarnation) })
}

/// Writes a frame of a coordinator.
#[derive(Debug)]
pub struct SessionRequestWriter {
    frame: Vec<u8>,
    messages: usize,
    /// What comes behind the work, whose length is not known before, and where a peer is.
    behind: Vec<u8>,
    endpoint: String,
}

impl SessionRequestWriter {
    /// For about so many messages with so many bytes of work.
    #[must_use]
    pub fn new(messages: usize, work: usize) -> Self {
        let frame = Vec::with_capacity(messages * MESSAGE_BYTES + work);
        Self { frame, messages: 0, behind: Vec::new(), endpoint: String::new() }
    }

    /// The messages so far.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// Writes a message to a participant. `endpoint_of` puts where a peer is behind what is there.
    pub fn say(
        &mut self,
        to: &ParticipantName,
        message: ToParticipant,
        endpoint_of: impl Fn(&ParticipantName, &mut String),
    ) {
        match message {
            ToParticipant::Prepare(prepare) => self.prepare(to, &prepare, endpoint_of),
            ToParticipant::Commit { id, incarnation } => {
                let number = if incarnation.0 == 0 { 0 } else { 9 };
                self.open(COMMIT, ID_BYTES + number + field_len(to.as_str().len()));
                put_id(&mut self.frame, ID, id);
                put_fixed64(&mut self.frame, COMMIT_INCARNATION, incarnation.0);
                put_bytes(&mut self.frame, COMMIT_PARTICIPANT, to.as_str().as_bytes());
            }
            other => {
                let endpoint_of = |peer: &ParticipantName| {
                    let mut endpoint = String::new();
                    endpoint_of(peer, &mut endpoint);
                    endpoint
                };
                self.message(&convert::coordinator_message(to, other, None, endpoint_of));
            }
        }
    }

    fn prepare(
        &mut self,
        to: &ParticipantName,
        prepare: &Prepare,
        endpoint_of: impl Fn(&ParticipantName, &mut String),
    ) {
        let behind = &mut self.behind;
        behind.clear();
        for peer in &prepare.peers {
            self.endpoint.clear();
            endpoint_of(peer, &mut self.endpoint);
            let (name, endpoint) = (peer.as_str().as_bytes(), self.endpoint.as_bytes());
            let known = if endpoint.is_empty() { 0 } else { field_len(endpoint.len()) };
            put_length(behind, PREPARE_PEERS, field_len(name.len()) + known);
            put_bytes(behind, PEER_PARTICIPANT, name);
            put_some(behind, PEER_ENDPOINT, endpoint);
        }
        put_number(behind, PREPARE_ONE_PHASE, prepare.one_phase.into());
        if let Some(request_id) = &prepare.request_id {
            put_some(behind, PREPARE_REQUEST_ID, request_id.as_str().as_bytes());
        }
        put_bytes(behind, PREPARE_PARTICIPANT, to.as_str().as_bytes());
        if let Some(voting) = &prepare.voting {
            put_message(behind, PREPARE_VOTING, &site::voting_message(&voting.sites));
        }
        let behind = std::mem::take(&mut self.behind);
        let payload = prepare.work.as_deref().unwrap_or_default();
        let work = 2 * usize::from(prepare.work.is_some())
            + if payload.is_empty() { 0 } else { field_len(payload.len()) };
        self.open(PREPARE, ID_BYTES + work + behind.len());
        put_id(&mut self.frame, ID, prepare.id);
        put_number(&mut self.frame, PREPARE_CARRIES_WORK, prepare.work.is_some().into());
        put_some(&mut self.frame, PREPARE_PAYLOAD, payload);
        self.frame.extend_from_slice(&behind);
        self.behind = behind;
    }

    /// Begins a message of this kind, of so many bytes.
    fn open(&mut self, key: u8, length: usize) {
        put_length(&mut self.frame, MESSAGES, field_len(length));
        put_length(&mut self.frame, key, length);
        self.messages += 1;
    }

    /// Writes any message.
    pub fn message(&mut self, message: &v1::CoordinatorMessage) {
        put_message(&mut self.frame, MESSAGES, message);
        self.messages += 1;
    }

    /// The frame, with who speaks.
    #[must_use]
    pub fn finish(mut self, origin: &v1::Origin) -> SessionRequest {
        put_message(&mut self.frame, ORIGIN, origin);
        Frame::new(self.frame.into())
    }
}

// ---- what a participant says --------------------------------------------------------------------

/// What is around the messages of a participant's frame, and the messages.
#[derive(Debug)]
pub struct ParticipantMessages<'a> {
    /// First in a session.
    pub welcome: Option<v1::SessionWelcome>,
    frame: &'a Bytes,
    messages: Messages<'a, v1::ParticipantMessage>,
}

impl SessionResponse {
    /// Reads what is around the messages.
    ///
    /// # Errors
    /// When it is no such frame.
    pub fn read(&self) -> Result<ParticipantMessages<'_>, DecodeError> {
        let frame = self.as_bytes();
        if let Some(Fields { first, messages, last: None }) = around(frame)
            && let Ok(welcome) = first.map(v1::SessionWelcome::decode).transpose()
        {
            let messages = Messages::Usual(messages);
            return Ok(ParticipantMessages { welcome, frame, messages });
        }
        let v1::SessionResponse { welcome, messages } = self.decode()?;
        let messages = Messages::Read(messages.into_iter());
        Ok(ParticipantMessages { welcome, frame, messages })
    }
}

impl ParticipantMessages<'_> {
    /// How many are still to be read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.messages.len()
    }
}

impl Iterator for ParticipantMessages<'_> {
    /// What it says, or which of its fields cannot be accepted; outside of that, that it is no message.
    type Item = Result<Result<FromSession, InvalidField>, DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.messages {
            Messages::Usual(fields) => {
                let (message, field) = fields.next()?;
                Some(match said(self.frame, message) {
                    Some(message) => Ok(Ok(FromSession::Message(message))),
                    None => other_said(self.frame, field),
                })
            }
            Messages::Read(messages) => Some(Ok(convert::participant_message(messages.next()?))),
        }
    }
}

/// A message by itself, read as in its frame.
#[cold]
fn other_said(
    frame: &Bytes,
    field: &[u8],
) -> Result<Result<FromSession, InvalidField>, DecodeError> {
    let message = alone::<v1::SessionResponse>(frame, field)?.messages.pop();
    Ok(convert::participant_message(message.unwrap_or_default()))
}

const SAID_VOTE: u8 = reader::bytes(2);
const SAID_COMMITTED: u8 = reader::bytes(3);
const SAID_ABORTED: u8 = reader::bytes(4);

fn said(frame: &Bytes, message: &[u8]) -> Option<FromParticipant> {
    let mut fields = Reader::new(message);
    if fields.key()? != ID {
        return None;
    }
    let id = TransactionId::from_text(fields.bytes()?)?;
    match fields.key()? {
        SAID_VOTE => voted(frame, id, fields.last_bytes()?),
        SAID_COMMITTED => {
            fields.last_bytes()?.is_empty().then_some(FromParticipant::Committed { id })
        }
        SAID_ABORTED => fields.last_bytes()?.is_empty().then_some(FromParticipant::Aborted { id }),
        _ => None,
    }
}

const VOTE: u8 = reader::varint(1);
const VOTE_RESULT: u8 = reader::bytes(3);
const VOTE_INCARNATION: u8 = reader::fixed64(4);
const PREPARED: u64 = v1::Vote::Prepared as u64;
const READ_ONLY: u64 = v1::Vote::ReadOnly as u64;

/// A vote that has no more to say.
fn voted(frame: &Bytes, id: TransactionId, response: &[u8]) -> Option<FromParticipant> {
    let mut fields = Reader::new(response);
    let (mut vote, mut result, mut incarnation) = (None, &[][..], 0);
    while !fields.is_empty() {
        match fields.key()? {
            VOTE => {
                vote = Some(match fields.varint()? {
                    PREPARED => Vote::Prepared,
                    READ_ONLY => Vote::ReadOnly,
                    _ => return None,
                });
            }
            VOTE_RESULT => result = fields.bytes()?,
            VOTE_INCARNATION => incarnation = fields.fixed64()?,
            _ => return None,
        }
    }
    if result.len() > limits::PAYLOAD_BYTES_MAX {
        return None;
    }
    let (incarnation, result) = (Incarnation(incarnation), frame.slice_ref(result));
    Some(FromParticipant::Voted { id, vote: vote?, incarnation, result })
}

/// Writes a frame of a participant.
#[derive(Debug)]
pub struct SessionResponseWriter {
    frame: Vec<u8>,
    messages: usize,
}

impl SessionResponseWriter {
    /// For about so many messages.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        Self { frame: Vec::with_capacity(messages * MESSAGE_BYTES / 2), messages: 0 }
    }

    /// The messages so far.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// The bytes so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frame.len()
    }

    /// Writes an answer.
    pub fn say(&mut self, message: FromParticipant) {
        match message {
            FromParticipant::Voted {
                id,
                vote: vote @ (Vote::Prepared | Vote::ReadOnly),
                incarnation,
                result,
            } => {
                let vote = if vote == Vote::Prepared { PREPARED } else { READ_ONLY };
                let returned = if result.is_empty() { 0 } else { field_len(result.len()) };
                let number = if incarnation.0 == 0 { 0 } else { 9 };
                let length = 2 + returned + number;
                self.open(id, field_len(length));
                put_length(&mut self.frame, SAID_VOTE, length);
                put_number(&mut self.frame, VOTE, vote);
                put_some(&mut self.frame, VOTE_RESULT, &result);
                put_fixed64(&mut self.frame, VOTE_INCARNATION, incarnation.0);
            }
            FromParticipant::Committed { id } => {
                self.open(id, 2);
                put_length(&mut self.frame, SAID_COMMITTED, 0);
            }
            FromParticipant::Aborted { id } => {
                self.open(id, 2);
                put_length(&mut self.frame, SAID_ABORTED, 0);
            }
            other => self.message(&convert::session_message(other)),
        }
    }

    /// Begins a message that has so many bytes behind its id.
    fn open(&mut self, id: TransactionId, behind: usize) {
        put_length(&mut self.frame, MESSAGES, ID_BYTES + behind);
        put_id(&mut self.frame, ID, id);
        self.messages += 1;
    }

    /// Writes any message.
    pub fn message(&mut self, message: &v1::ParticipantMessage) {
        put_message(&mut self.frame, MESSAGES, message);
        self.messages += 1;
    }

    /// The frame.
    #[must_use]
    pub fn finish(self) -> SessionResponse {
        Frame::new(self.frame.into())
    }
}
