//! A network in a process of its own, driven over a pair of pipes: how a compiled program is compared with what another engine computes.
//!
//! A request is one byte for the phase and the arena; the answer is the arena. The caller's copy is the state between phases, so that
//! everything that reads and writes a [`Network`] works on it unchanged.

use crate::arena::Arena;
use crate::manifest::{Element, Slot};
use crate::network::{Network, Phase};
use std::io::{self, Read, Write};

/// Bytes moved at once.
const CHUNK: usize = 1 << 16;

/// Answers requests until the input ends.
///
/// # Errors
/// A pipe breaks, or a request is not one.
pub fn serve(net: &mut dyn Network, input: &mut dyn Read, output: &mut dyn Write) -> io::Result<()> {
    loop {
        let mut phase = [0];
        if input.read(&mut phase)? == 0 {
            return Ok(());
        }
        let phase = match phase {
            [0] => Phase::Train,
            [1] => Phase::Evaluate,
            [other] => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("phase {other} does not exist"))),
        };
        receive(net.arena_mut(), input)?;
        net.run(phase);
        send(net.arena(), output)?;
    }
}

/// Asks the server at the other end of the pipes to run `phase` on `arena`.
///
/// # Errors
/// A pipe breaks: the server has ended.
pub fn request(phase: Phase, arena: &mut Arena, to: &mut dyn Write, from: &mut dyn Read) -> io::Result<()> {
    let phase = match phase {
        Phase::Train => 0,
        Phase::Evaluate => 1,
    };
    to.write_all(&[phase])?;
    send(arena, to)?;
    receive(arena, from)
}

fn everything(arena: &Arena) -> Slot {
    Slot { offset: 0, len: arena.bytes() / 4, element: Element::U32 }
}

fn send(arena: &Arena, to: &mut dyn Write) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(CHUNK);
    for words in arena.words(everything(arena)).chunks(CHUNK / 4) {
        bytes.clear();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        to.write_all(&bytes)?;
    }
    to.flush()
}

fn receive(arena: &mut Arena, from: &mut dyn Read) -> io::Result<()> {
    let slot = everything(arena);
    let mut bytes = vec![0; CHUNK];
    for words in arena.words_mut(slot).chunks_mut(CHUNK / 4) {
        let bytes = &mut bytes[..words.len() * 4];
        from.read_exact(bytes)?;
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    /// Adds one to every word; has no description.
    struct Increment(Arena);

    impl Network for Increment {
        fn manifest(&self) -> &Manifest {
            unreachable!("a server needs no description")
        }
        fn arena(&self) -> &Arena {
            &self.0
        }
        fn arena_mut(&mut self) -> &mut Arena {
            &mut self.0
        }
        fn run(&mut self, phase: Phase) {
            let (by, slot) = (if phase == Phase::Train { 1 } else { 10 }, everything(&self.0));
            self.0.words_mut(slot).iter_mut().for_each(|word| *word += by);
        }
    }

    #[test]
    fn the_arena_goes_there_and_back() {
        let mut arena = Arena::new(3 * CHUNK + 64);
        let slot = everything(&arena);
        arena.words_mut(slot).iter_mut().zip(0..).for_each(|(word, index)| *word = index);
        for (phase, by) in [(Phase::Train, 1), (Phase::Evaluate, 11)] {
            let mut requests = Vec::new();
            let broken = request(phase, &mut arena, &mut requests, &mut io::empty()).expect_err("nobody answers");
            assert_eq!(broken.kind(), io::ErrorKind::UnexpectedEof);
            let mut answers = Vec::new();
            serve(&mut Increment(Arena::new(arena.bytes())), &mut requests.as_slice(), &mut answers).expect("the request is whole");
            receive(&mut arena, &mut answers.as_slice()).expect("the answer is whole");
            assert!(arena.words(slot).iter().zip(0..).all(|(word, index)| *word == index + by));
        }
    }

    #[test]
    fn unknown_phases_are_refused() {
        let error = serve(&mut Increment(Arena::new(64)), &mut [7].as_slice(), &mut io::sink()).expect_err("no such phase");
        assert_eq!(error.to_string(), "phase 7 does not exist");
    }
}
