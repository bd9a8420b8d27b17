//! Small changes to inputs, the same in each run.

/// Longer inputs show nothing new, and take long.
const LONGEST: usize = 4096;

/// Bytes and words that parsers treat on their own.
const WORDS: [&[u8]; 24] = [
    b"\0",
    b"\n",
    b"=",
    b":",
    b"/",
    b"..",
    b"../",
    b",",
    b";",
    b"*",
    b"-1",
    b"0",
    b"18446744073709551616",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"1e999",
    b"%",
    b"\xff\xff",
    b"\xc0",
    b"\xdd\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc1",
    "\u{200b}é".as_bytes(),
    b"/../../../../etc/shadow",
];

/// Makes inputs out of a corpus; xorshift64*, seeded by a name.
pub struct Mutator(u64);

impl Mutator {
    pub fn new(name: &str) -> Self {
        // FNV-1a; any number but 0 will do.
        let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(seed | 1)
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % n.max(1)
    }

    /// One input, one to six changes away from the corpus.
    pub fn mutant(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut data = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut data, corpus);
        }
        data.truncate(LONGEST);
        data
    }

    fn change(&mut self, data: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(data.len() + 1);
        let end = at + self.below(data.len() + 1 - at);
        match self.below(9) {
            0 => data.truncate(at),
            1 => {
                data.drain(at..end.min(at + 16));
            }
            2 if at < data.len() => data[at] ^= 1 << self.below(8),
            3 if at < data.len() => data[at] = u8::try_from(self.below(256)).unwrap(),
            4 => {
                let part = data[at..end].to_vec();
                data.splice(at..at, part);
            }
            5 | 6 => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                let to = from + self.below(other.len() + 1 - from);
                let (from, to) = (from, to.min(from + 256));
                data.splice(at..end, other[from..to].iter().copied());
            }
            _ => {
                let word = WORDS[self.below(WORDS.len())];
                data.splice(at..at, word.iter().copied());
            }
        }
        data.truncate(2 * LONGEST);
    }
}
