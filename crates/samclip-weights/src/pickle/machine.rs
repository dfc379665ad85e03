//! The stack machine: one opcode at a time, every access checked.

use std::collections::BTreeMap;
use std::path::Path;

use super::globals::Dialect;
use super::{Graph, Id, Limits, Node};
use crate::error::WeightsError;

/// Why a pickle is refused, before the path is known.
pub(super) enum Fault {
    Reason(String),
    Global(String),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Self::Reason(reason.into())
    }
}

pub(super) type Step<T = ()> = Result<T, Fault>;

/// Interprets one pickle; `path` and `record` only name it in messages.
pub(crate) fn load(bytes: &[u8], dialect: Dialect, path: &Path) -> crate::Result<Graph> {
    if bytes.len() > Limits::BYTES {
        let reason = format!("{} bytes, expected at most {}", bytes.len(), Limits::BYTES);
        return Err(WeightsError::invalid("pickle", path, reason));
    }
    let mut machine = Machine {
        input: bytes,
        at: 0,
        dialect,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        tensors: 0,
        copied: 0,
    };
    match machine.run() {
        Ok(root) => Ok(Graph { nodes: machine.nodes, root }),
        Err(Fault::Global(global)) => Err(WeightsError::ForbiddenGlobal { global, path: path.into() }),
        Err(Fault::Reason(reason)) => {
            Err(WeightsError::invalid("pickle", path, format!("{reason} (at byte {})", machine.at)))
        }
    }
}

pub(super) struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    pub(super) dialect: Dialect,
    pub(super) nodes: Vec<Node>,
    pub(super) stack: Vec<Id>,
    marks: Vec<usize>,
    // A map, not a vector: memo indices are chosen by the file.
    memo: BTreeMap<u32, Id>,
    pub(super) tensors: usize,
    pub(super) copied: usize,
}

impl Machine<'_> {
    fn run(&mut self) -> Step<Id> {
        for _ in 0..Limits::OPCODES {
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
            if self.stack.len() > Limits::STACK || self.memo.len() > Limits::MEMO {
                return Err("stack or memo grows beyond its bound".into());
            }
        }
        Err(format!("more than {} instructions", Limits::OPCODES).into())
    }

    fn step(&mut self, opcode: u8) -> Step {
        match opcode {
            0x80 => match self.byte()? {
                2..=5 => Ok(()),
                version => Err(format!("protocol {version}, expected 2 to 5").into()),
            },
            0x95 => self.take(8).map(drop), // FRAME: a length that we do not need
            b'(' => self.mark(),
            b'0' => self.pop().map(drop),
            b'1' => self.pop_mark().map(drop),
            b'2' => self.top().map(|id| self.stack.push(id)),
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'K' => self.byte().and_then(|v| self.push(Node::Int(v.into()))),
            b'M' => self.array().and_then(|b| self.push(Node::Int(u16::from_le_bytes(b).into()))),
            b'J' => self.array().and_then(|b| self.push(Node::Int(i32::from_le_bytes(b).into()))),
            0x8a => self.long(),
            b'G' => self.take(8).map(drop).and_then(|()| self.push(Node::Float)),
            b'X' => self.array().and_then(|b| self.text(u32::from_le_bytes(b).into())),
            0x8c => self.byte().and_then(|n| self.text(n.into())),
            0x8d => self.array().and_then(|b| self.text(u64::from_le_bytes(b))),
            b'C' => self.byte().and_then(|n| self.bytes(n.into())),
            b'B' => self.array().and_then(|b| self.bytes(u32::from_le_bytes(b) as usize)),
            _ => self.step_container(opcode),
        }
    }

    fn step_container(&mut self, opcode: u8) -> Step {
        match opcode {
            b')' => self.push(Node::Tuple(Vec::new())),
            b't' => self.pop_mark().and_then(|items| self.push(Node::Tuple(items))),
            0x85..=0x87 => {
                self.pop_many((opcode - 0x84).into()).and_then(|items| self.push(Node::Tuple(items)))
            }
            b']' => self.push(Node::List(Vec::new())),
            b'a' => self.pop_many(1).and_then(|items| self.append(items)),
            b'e' => self.pop_mark().and_then(|items| self.append(items)),
            b'}' => self.push(Node::Dict(Vec::new())),
            b's' => self.pop_many(2).and_then(|items| self.set(&items)),
            b'u' => self.pop_mark().and_then(|items| self.set(&items)),
            b'q' => self.byte().and_then(|i| self.remember(i.into())),
            b'r' => self.array().and_then(|b| self.remember(u32::from_le_bytes(b))),
            0x94 => self.remember(self.memo.len() as u32), // MEMOIZE; the memo is bounded far below u32
            b'h' => self.byte().and_then(|i| self.recall(i.into())),
            b'j' => self.array().and_then(|b| self.recall(u32::from_le_bytes(b))),
            b'c' => self.global(),
            0x93 => self.stack_global(),
            b'R' => self.reduce(),
            0x81 => self.new_object(),
            b'b' => self.build(),
            b'Q' => self.persistent(),
            other => Err(format!("instruction {other:#04x} is not part of checkpoints").into()),
        }
    }

    // --- input ---

    fn take(&mut self, n: usize) -> Step<&[u8]> {
        let end =
            self.at.checked_add(n).filter(|&end| end <= self.input.len()).ok_or("the stream ends early")?;
        let bytes = &self.input[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self) -> Step<u8> {
        self.take(1).map(|b| b[0])
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        self.take(N).map(|b| b.try_into().expect("take returns N bytes"))
    }

    /// A line of a global, without its end.
    pub(super) fn line(&mut self) -> Step<String> {
        let rest = &self.input[self.at..];
        let window = &rest[..rest.len().min(Limits::GLOBAL)];
        let end = window.iter().position(|&b| b == b'\n').ok_or("a name without an end")?;
        let line = std::str::from_utf8(&window[..end]).map_err(|_| "a name that is not UTF-8")?.to_owned();
        self.at += end + 1;
        Ok(line)
    }

    fn text(&mut self, n: u64) -> Step {
        let n = usize::try_from(n).map_err(|_| "the stream ends early")?;
        let text = std::str::from_utf8(self.take(n)?).map_err(|_| "a string that is not UTF-8")?.into();
        self.push(Node::Str(text))
    }

    fn bytes(&mut self, n: usize) -> Step {
        self.take(n)?;
        self.push(Node::Bytes)
    }

    /// LONG1: a signed little-endian integer of up to 255 bytes; more than 8 have no use here.
    fn long(&mut self) -> Step {
        let n = self.byte()?.into();
        let bytes = self.take(n)?;
        if n > 8 {
            return Err(format!("an integer of {n} bytes").into());
        }
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..n].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

    // --- stack ---

    pub(super) fn push(&mut self, node: Node) -> Step {
        // At most one node per instruction, so the count stays far below u32::MAX.
        let id = Id(self.nodes.len() as u32);
        self.nodes.push(node);
        self.stack.push(id);
        Ok(())
    }

    /// Values below an open mark belong to whoever closes it.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn top(&self) -> Step<Id> {
        if self.stack.len() > self.floor() {
            return Ok(*self.stack.last().expect("longer than its floor"));
        }
        Err("the stack is empty".into())
    }

    pub(super) fn pop(&mut self) -> Step<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    pub(super) fn pop_many(&mut self, n: usize) -> Step<Vec<Id>> {
        if self.stack.len() < self.floor() + n {
            return Err("the stack is empty".into());
        }
        Ok(self.stack.split_off(self.stack.len() - n))
    }

    fn mark(&mut self) -> Step {
        if self.marks.len() >= Limits::MARKS {
            return Err(format!("more than {} open marks", Limits::MARKS).into());
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("no open mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn remember(&mut self, index: u32) -> Step {
        let id = self.top()?;
        self.memo.insert(index, id);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Step {
        let id = *self.memo.get(&index).ok_or_else(|| format!("memo {index} was never set"))?;
        self.stack.push(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(bytes: &[u8]) -> crate::Result<Graph> {
        load(bytes, Dialect::Checkpoint, Path::new("x.pth"))
    }

    fn error(bytes: &[u8]) -> String {
        run(bytes).unwrap_err().to_string()
    }

    #[test]
    fn os_system_is_refused_by_name() {
        let e = run(b"\x80\x02cposix\nsystem\nX\x02\0\0\0id\x85R.").unwrap_err();
        assert!(matches!(&e, WeightsError::ForbiddenGlobal { global, .. } if global == "posix.system"));
        assert!(e.to_string().contains("nothing was executed"));
        // The same through the stack (protocol 4), and names that only look like allowed ones.
        assert!(error(b"\x80\x04\x8c\x02os\x8c\x06system\x93.").contains("`os.system`"));
        for global in [
            "builtins\neval",
            "collections\ndefaultdict",
            "torch\nload",
            "torch._utils\n_rebuild_qtensor",
            "__torch__\nX",
            "torch.jit._pickle\nbuild_intlist",
        ] {
            assert!(error(format!("c{global}\n.").as_bytes()).contains("allow-list"), "{global}");
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert!(error(b"cos\x1b[2J\nx\n.").contains("`os?[2J.x`"));
    }

    #[test]
    fn recursion_is_harmless() {
        // A list that holds itself, a dict that is its own key and value.
        run(b"\x80\x02]q\0h\0a.").unwrap();
        run(b"\x80\x02}q\0h\0h\0s.").unwrap();
        // A hundred thousand nested lists, by opening and appending.
        let mut deep = b"\x80\x02".to_vec();
        deep.extend(std::iter::repeat_n(b']', 100_000));
        deep.extend(std::iter::repeat_n(b'a', 99_999));
        deep.push(b'.');
        run(&deep).unwrap();
    }

    #[test]
    fn bombs_hit_a_bound() {
        // Doubling by reference: 2^n leaves in n nodes.
        let mut laughs = b"\x80\x02]q\0".to_vec();
        for i in 1..=100u8 {
            laughs.extend([b']', b'q', i, b'(', b'h', i - 1, b'h', i - 1, b'e']);
        }
        laughs.push(b'.');
        assert!(run(&laughs).unwrap().nodes.len() < 200);
        assert!(error(&vec![b'('; 2_000]).contains("open marks"));
        let mut memo = b"N".to_vec();
        for i in 0..250_001u32 {
            memo.push(b'r');
            memo.extend(i.to_le_bytes());
        }
        assert!(error(&memo).contains("bound"));
        assert!(error(&vec![b'N'; 250_002]).contains("bound"));
        assert!(error(&b"N0".repeat(500_001)).contains("instructions"));
        assert!(run(b"N\x72\xff\xff\xff\xff.").is_ok(), "a huge memo index costs one entry");
    }

    #[test]
    fn broken_streams_are_errors() {
        let cases: [&[u8]; 20] = [
            b"",
            b".",
            b"\x80",
            b"\x80\x09",
            b"X\xff\xff\xff\xffa",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffa",
            b"t.",
            b"u.",
            b"a.",
            b"N(a.",
            b"h\0.",
            b"N)R.",
            b"NN\x86Q.",
            b"N(Nu.",
            b"}(Nu.",
            b"X\x01\0\0\0\xff.",
            b"\x8a\x09123456789.",
            b"ccollections\nOrderedDict",
            b"S'a'\n.",
            b"ccollections\nOrderedDict\n)\x81.",
        ];
        for case in cases {
            assert!(error(case).starts_with("invalid pickle file"), "{case:?}");
        }
    }

    #[test]
    fn integers() {
        for (bytes, value) in [
            (&b"K\xff."[..], 255),
            (b"M\xff\xff.", 65535),
            (b"J\xff\xff\xff\xff.", -1),
            (b"\x8a\x00.", 0),
            (b"\x8a\x01\xff.", -1),
            (b"\x8a\x05\0\0\0\0\x01.", 1 << 32),
        ] {
            let graph = run(bytes).unwrap();
            assert_eq!(graph.get(graph.root), &Node::Int(value));
        }
    }

    fn storage(numel: &[u8]) -> Vec<u8> {
        let mut s = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu".to_vec();
        s.extend(numel);
        s.extend(b"tQ");
        s
    }

    #[test]
    fn tensors() {
        let call = |numel: &[u8], args: &[u8]| {
            let mut s = b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
            s.extend(storage(numel));
            s.extend(args);
            s.extend(b"tR.");
            s
        };
        let graph = run(&call(b"K\x06", b"K\0K\x02K\x03\x86K\x03K\x01\x86\x89N")).unwrap();
        let Node::Tensor(view) = graph.get(graph.root) else { panic!() };
        assert_eq!(
            (view.shape.as_slice(), view.strides.as_slice(), view.dtype),
            (&[2, 3][..], &[3, 1][..], crate::DType::F32)
        );
        assert!(
            error(&call(b"K\x06", b"J\xff\xff\xff\xffK\x02\x85K\x01\x85\x89N")).contains("expected a size")
        );
        assert!(error(&call(b"K\x06", b"K\0K\x02\x85)\x89N")).contains("1 axes and 0 strides"));
        assert!(error(&call(b"K\x06", b"K\0K\x02\x85K\x01N\x86\x89N")).contains("expected a size"));
        assert!(error(&call(b"J\xff\xff\xff\xff", b"")).contains("expected a size"));
        let many = [b"K\0(".as_slice(), &b"K\x01".repeat(65), b"t)"].concat();
        assert!(error(&call(b"K\x06", &many)).contains("65 axes"));
    }
}
