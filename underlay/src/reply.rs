//! Checks of the kernel's replies, datagram by datagram. Pure.
//!
//! Invariant: [`Exchange::feed`] reports success only if the complete answer was seen. A dump succeeds only
//! with an end message that carries 0, and only if no message was marked as interrupted; the kernel hides the
//! error of a failed dump inside that end message. Messages of another sequence number belong to an abandoned
//! request, and are ignored.

use crate::error::{KernelError, Refusal, Unknown};
use crate::message::{Ending, attributes, i32_at, u16_at, u32_at};

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

const NLMSGERR_ATTR_MSG: u16 = 1;

const HEADER: usize = 16;

/// Handler of one payload message, by type and body; an error marks the message as malformed.
pub(crate) type Each<'a> = dyn FnMut(u16, &[u8]) -> Result<(), Unknown> + 'a;

/// Progress of an exchange.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More datagrams must follow.
    More,
    /// The answer is complete and valid.
    Complete,
    /// The answer is complete, but the kernel's data changed during it: repeat the request.
    Interrupted,
}

/// One request and its answer so far.
#[derive(Debug)]
pub(crate) struct Exchange {
    ending: Ending,
    sequence: u32,
    interrupted: bool,
    /// The first fault of the reply. It is reported at the end, so that the rest of the reply does not stay
    /// in the socket.
    spoiled: Option<Unknown>,
}

impl Exchange {
    pub fn new(ending: Ending, sequence: u32) -> Self {
        Self { ending, sequence, interrupted: false, spoiled: None }
    }

    /// Takes one datagram. `each` gets every payload message.
    pub fn feed(&mut self, mut datagram: &[u8], each: &mut Each<'_>) -> Result<Progress, Refusal> {
        while !datagram.is_empty() {
            let message = u32_at(datagram, 0)
                .and_then(|length| usize::try_from(length).ok())
                .filter(|length| *length >= HEADER)
                .and_then(|length| datagram.get(..length));
            let Some(message) = message else {
                self.spoil("the kernel's answer is cut off");
                break;
            };
            datagram = datagram.get(message.len().next_multiple_of(4)..).unwrap_or_default();
            if let Some(progress) = self.message(message, each)? {
                return Ok(progress);
            }
        }
        Ok(Progress::More)
    }

    /// Reason why the answer does not count, if one is recorded; for use after a time-out.
    pub fn spoiled(&mut self) -> Option<Unknown> {
        self.spoiled.take()
    }

    fn spoil(&mut self, why: &str) {
        self.spoiled.get_or_insert_with(|| Unknown(why.to_owned()));
    }

    fn message(&mut self, message: &[u8], each: &mut Each<'_>) -> Result<Option<Progress>, Refusal> {
        let kind = u16_at(message, 4).unwrap_or_default();
        let flags = u16_at(message, 6).unwrap_or_default();
        let body = &message[HEADER..];
        if u32_at(message, 8) != Some(self.sequence) {
            return Ok(None);
        }
        self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
        match kind {
            NLMSG_NOOP => Ok(None),
            NLMSG_OVERRUN => {
                self.spoil("the kernel lost a part of its answer");
                Ok(None)
            }
            NLMSG_ERROR => self.error_message(flags, body),
            NLMSG_DONE => self.end_message(flags, body),
            _ => {
                if let Err(unknown) = each(kind, body) {
                    self.spoiled.get_or_insert(unknown);
                }
                if self.ending == Ending::One { self.end().map(Some) } else { Ok(None) }
            }
        }
    }

    fn error_message(&mut self, flags: u16, body: &[u8]) -> Result<Option<Progress>, Refusal> {
        match i32_at(body, 0) {
            Some(0) if self.ending == Ending::Ack => self.end().map(Some),
            Some(0) => {
                self.spoil("the kernel acknowledged where it should have answered");
                self.end().map(Some)
            }
            Some(code) => {
                Err(KernelError { errno: code.saturating_neg(), message: error_text(flags, body) }.into())
            }
            None => Err(Unknown("the kernel's error message is cut off".to_owned()).into()),
        }
    }

    fn end_message(&mut self, flags: u16, body: &[u8]) -> Result<Option<Progress>, Refusal> {
        if self.ending != Ending::Dump {
            self.spoil("the kernel ended a dump that was not requested");
        }
        match i32_at(body, 0) {
            Some(0) => self.end().map(Some),
            Some(code) => {
                let message = if flags & NLM_F_ACK_TLVS == 0 { None } else { words(&body[4..]) };
                Err(KernelError { errno: code.saturating_neg(), message }.into())
            }
            None => Err(Unknown("the end of the kernel's list is cut off".to_owned()).into()),
        }
    }

    fn end(&mut self) -> Result<Progress, Refusal> {
        match self.spoiled.take() {
            Some(unknown) => Err(unknown.into()),
            None if self.interrupted => Ok(Progress::Interrupted),
            None => Ok(Progress::Complete),
        }
    }
}

/// The kernel's sentence in the body of an error message, if there is one.
pub(crate) fn error_text(flags: u16, body: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    // The request follows the error code: its header only (capped), or all of it.
    let request = if flags & NLM_F_CAPPED == 0 { usize::try_from(u32_at(body, 4)?).ok()? } else { HEADER };
    words(body.get(4 + request.checked_next_multiple_of(4)?..)?)
}

fn words(tail: &[u8]) -> Option<String> {
    let (_, text) = attributes(tail).filter_map(Result::ok).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQUENCE: u32 = 7;
    const LINK: u16 = 16;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes
    }

    fn done(code: i32) -> Vec<u8> {
        message(NLMSG_DONE, 2, SEQUENCE, &code.to_ne_bytes())
    }

    fn link(flags: u16) -> Vec<u8> {
        message(LINK, flags | 2, SEQUENCE, &[0; 16])
    }

    /// Feeds the datagrams in order; returns the number of payload messages and the result.
    fn run(ending: Ending, datagrams: &[Vec<u8>]) -> (usize, Result<Progress, Refusal>) {
        let mut exchange = Exchange::new(ending, SEQUENCE);
        let mut count = 0;
        let mut last = Ok(Progress::More);
        for datagram in datagrams {
            last = exchange.feed(datagram, &mut |_, _| {
                count += 1;
                Ok(())
            });
            if last != Ok(Progress::More) {
                break;
            }
        }
        (count, last)
    }

    #[test]
    fn a_whole_dump_counts() {
        let datagrams = [[link(0), link(0)].concat(), done(0)];
        assert_eq!(run(Ending::Dump, &datagrams), (2, Ok(Progress::Complete)));
    }

    #[test]
    fn a_dump_without_end_message_does_not_count() {
        assert_eq!(run(Ending::Dump, &[link(0)]), (1, Ok(Progress::More)));
    }

    #[test]
    fn an_error_inside_the_end_message_is_an_error_and_not_an_empty_list() {
        let (count, end) = run(Ending::Dump, &[done(-libc::EINVAL)]);
        assert_eq!(count, 0);
        assert!(end.unwrap_err().is(libc::EINVAL));
    }

    #[test]
    fn an_interrupted_dump_does_not_count_wherever_the_mark_is() {
        for datagrams in [
            vec![link(NLM_F_DUMP_INTR), done(0)],
            vec![link(0), link(NLM_F_DUMP_INTR), done(0)],
            vec![link(0), message(NLMSG_DONE, NLM_F_DUMP_INTR, SEQUENCE, &[0; 4])],
        ] {
            assert_eq!(run(Ending::Dump, &datagrams).1, Ok(Progress::Interrupted));
        }
    }

    #[test]
    fn a_cut_answer_is_unknown_at_every_byte() {
        let whole = [link(0), done(0)].concat();
        for length in 1..whole.len() {
            let datagrams = [whole[..length].to_vec(), done(0)];
            let (_, end) = run(Ending::Dump, &datagrams);
            if length == link(0).len() {
                assert_eq!(end, Ok(Progress::Complete), "a cut between two messages is harmless");
            } else {
                assert!(matches!(end, Err(Refusal::Unknown(_))), "{length}: {end:?}");
            }
        }
        let (_, end) = run(Ending::Dump, &[message(NLMSG_DONE, 0, SEQUENCE, &[])]);
        assert!(matches!(end, Err(Refusal::Unknown(_))), "an end message without a code: {end:?}");
    }

    #[test]
    fn replies_to_another_request_count_for_nothing() {
        let stale = [
            message(LINK, 2, SEQUENCE - 1, &[0; 16]),
            message(NLMSG_DONE, 2, SEQUENCE - 1, &[0; 4]),
            message(NLMSG_ERROR, 0, SEQUENCE - 1, &(-libc::ENODEV).to_ne_bytes()),
            message(LINK, NLM_F_DUMP_INTR, SEQUENCE - 1, &[0; 16]),
        ];
        assert_eq!(run(Ending::Dump, &stale), (0, Ok(Progress::More)));
        let mut then = stale.to_vec();
        then.push(done(0));
        assert_eq!(run(Ending::Dump, &then), (0, Ok(Progress::Complete)));
    }

    #[test]
    fn a_malformed_message_spoils_the_whole_answer() {
        let mut exchange = Exchange::new(Ending::Dump, SEQUENCE);
        let datagram = [link(0), link(0), done(0)].concat();
        let mut first = true;
        let end = exchange.feed(&datagram, &mut |_, _| {
            if std::mem::take(&mut first) { Err(Unknown("bad".to_owned())) } else { Ok(()) }
        });
        assert_eq!(end, Err(Refusal::Unknown(Unknown("bad".to_owned()))));
    }

    #[test]
    fn a_lost_part_is_unknown_and_an_early_acknowledgement_too() {
        let overrun = message(NLMSG_OVERRUN, 0, SEQUENCE, &[]);
        assert!(matches!(run(Ending::Dump, &[overrun, done(0)]).1, Err(Refusal::Unknown(_))));
        let ack = message(NLMSG_ERROR, 0, SEQUENCE, &[0; 20]);
        assert!(matches!(run(Ending::Dump, std::slice::from_ref(&ack)).1, Err(Refusal::Unknown(_))));
        assert!(matches!(run(Ending::One, std::slice::from_ref(&ack)).1, Err(Refusal::Unknown(_))));
        assert_eq!(run(Ending::Ack, &[ack]).1, Ok(Progress::Complete));
    }

    #[test]
    fn the_kernels_sentence_is_found_behind_a_whole_and_a_capped_request() {
        let sentence = [&13_u16.to_ne_bytes()[..], &1_u16.to_ne_bytes(), b"no thanks", &[0; 3]].concat();
        for (flags, request) in [(NLM_F_ACK_TLVS, 20_usize), (NLM_F_ACK_TLVS | NLM_F_CAPPED, 16)] {
            let mut body = (-libc::EPERM).to_ne_bytes().to_vec();
            body.extend(20_u32.to_ne_bytes());
            body.resize(4 + request, 0);
            body.extend(&sentence);
            let (_, end) = run(Ending::Ack, &[message(NLMSG_ERROR, flags, SEQUENCE, &body)]);
            let expected = KernelError { errno: libc::EPERM, message: Some("no thanks".to_owned()) };
            assert_eq!(end, Err(Refusal::Kernel(expected)));
        }
    }
}
