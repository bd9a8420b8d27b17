//! Signal names and numbers, as jobs, images and people write them. Linux numbers of x86-64 and arm64.

/// Real-time signals that a program may use under glibc and musl (the first two or three are the C library's own).
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

/// First name of a number is the canonical one.
const NAMES: &[(&str, i32)] = &[
    ("NULL", 0),
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// Not the name or number of a signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid signal: {0}")]
pub struct UnknownSignal(pub String);

/// Reads `SIGTERM`, `TERM`, `sigterm`, `15`, `SIGRTMIN+3`, `RTMAX-1`. This covers Nomad's names and an image's
/// STOPSIGNAL.
///
/// # Errors
/// If it is none of these.
pub fn parse(text: &str) -> Result<i32, UnknownSignal> {
    let unknown = || UnknownSignal(text.to_owned());
    let upper = text.trim().to_ascii_uppercase();
    if !upper.is_empty() && upper.bytes().all(|b| b.is_ascii_digit()) {
        return upper.parse().ok().filter(|n| is_signal(*n)).ok_or_else(unknown);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    real_time(name)
        .filter(|n| (RT_MIN..=RT_MAX).contains(n))
        .ok_or_else(unknown)
}

/// The name with `SIG`, if it is a signal.
#[must_use]
pub fn name(number: i32) -> Option<String> {
    if let Some((name, _)) = NAMES.iter().find(|(_, known)| *known == number) {
        return Some(format!("SIG{name}"));
    }
    match number {
        RT_MIN => Some("SIGRTMIN".to_owned()),
        n if (RT_MIN..=RT_MAX).contains(&n) => Some(format!("SIGRTMIN+{}", n - RT_MIN)),
        _ => None,
    }
}

fn is_signal(number: i32) -> bool {
    (0..=31).contains(&number) || (RT_MIN..=RT_MAX).contains(&number)
}

fn real_time(name: &str) -> Option<i32> {
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<i32>().ok(),
        Some(_) => None,
        None => rest.is_empty().then_some(0),
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return RT_MIN.checked_add(offset(rest, '+')?);
    }
    RT_MAX.checked_sub(offset(name.strip_prefix("RTMAX")?, '-')?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Nomad's list (`nomad alloc signal`, `change_signal`).
    const NOMAD: &str = "SIGNULL SIGABRT SIGALRM SIGBUS SIGCONT SIGFPE SIGHUP SIGILL SIGINT SIGIO SIGIOT SIGKILL SIGPIPE \
        SIGPROF SIGQUIT SIGSEGV SIGSTOP SIGSYS SIGTERM SIGTRAP SIGTSTP SIGTTIN SIGTTOU SIGUSR1 SIGUSR2 SIGWINCH \
        SIGXCPU SIGXFSZ";

    #[test]
    fn every_name_of_nomad_is_known_in_every_spelling() {
        for full in NOMAD.split_whitespace() {
            let number = parse(full).unwrap();
            let short = full.trim_start_matches("SIG");
            for spelling in [
                full.to_lowercase(),
                short.to_owned(),
                short.to_lowercase(),
                number.to_string(),
            ] {
                assert_eq!(parse(&spelling), Ok(number), "{spelling}");
            }
        }
    }

    #[test]
    fn numbers_are_linux_numbers() {
        for (text, number) in [
            ("SIGKILL", 9),
            ("USR1", 10),
            ("sigterm", 15),
            ("37", 37),
            ("0", 0),
            (" TERM ", 15),
        ] {
            assert_eq!(parse(text), Ok(number));
        }
    }

    #[test]
    fn images_may_name_real_time_signals() {
        for (text, number) in [("SIGRTMIN+3", 37), ("RTMIN", 34), ("SIGRTMAX", 64), ("sigrtmax-1", 63)] {
            assert_eq!(parse(text), Ok(number));
        }
        for text in [
            "RTMIN-1",
            "RTMIN+31",
            "RTMAX-31",
            "RTMAX+1",
            "RTMIN+",
            "RTMIN+99999999999",
            "RTMIN+-1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn others_are_refused_by_name() {
        for text in [
            "",
            "FOO",
            "SIGFOO",
            "SIG",
            "-9",
            "+9",
            "32",
            "65",
            "99999999999",
            "SIGSIGTERM",
            "9x",
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), format!("Invalid signal: {text}"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Ok(number) = parse(&text) {
                prop_assert!(is_signal(number));
            }
        }

        #[test]
        fn names_are_read_back(number in -10i32..200) {
            match name(number) {
                Some(name) => prop_assert_eq!(parse(&name), Ok(number)),
                None => prop_assert!(!is_signal(number)),
            }
        }
    }
}
