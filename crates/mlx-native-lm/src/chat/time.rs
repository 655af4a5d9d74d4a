//! Dates for templates.

use std::time::{SystemTime, UNIX_EPOCH};

use super::jinja::{Error, Res};

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// Times outside the years 1 to 9999 are shown as the nearest within.
const RANGE: (i64, i64) = (-62_135_596_800, 253_402_300_799);

/// A time of the Gregorian calendar.
struct Time {
    year: i64,
    /// From 0.
    month: usize,
    /// From 1.
    day: i64,
    /// From 0.
    day_of_year: i64,
    /// From Sunday.
    weekday: usize,
    /// Of the day.
    second: i64,
    /// Since 1970.
    stamp: i64,
}

impl Time {
    fn new(seconds: i64) -> Self {
        let seconds = seconds.clamp(RANGE.0, RANGE.1);
        let days = seconds.div_euclid(86_400);
        // A mean year is never longer than 366 days nor shorter than 365, so the guess is off by few years.
        let mut year = 1970 + days.div_euclid(366);
        while first_day(year + 1) <= days {
            year += 1;
        }
        while first_day(year) > days {
            year -= 1;
        }
        let day_of_year = days - first_day(year);
        let (mut month, mut day) = (0, day_of_year);
        while day >= month_len(year, month) {
            day -= month_len(year, month);
            month += 1;
        }
        Time {
            year,
            month,
            day: day + 1,
            day_of_year,
            // 1970 began on a Thursday.
            weekday: (days + 4).rem_euclid(7) as usize,
            second: seconds.rem_euclid(86_400),
            stamp: seconds,
        }
    }

    /// Year and week of ISO 8601: the week belongs to the year that has its Thursday.
    fn iso_week(&self) -> (i64, i64) {
        let monday_first = (self.weekday as i64 + 6) % 7;
        let thursday = self.day_of_year - monday_first + 3;
        let len = |year: i64| first_day(year + 1) - first_day(year);
        if thursday < 0 {
            (self.year - 1, (thursday + len(self.year - 1)) / 7 + 1)
        } else if thursday >= len(self.year) {
            (self.year + 1, 1)
        } else {
            (self.year, thursday / 7 + 1)
        }
    }
}

/// Days from 1970 to the beginning of a year.
fn first_day(year: i64) -> i64 {
    let before = year - 1;
    before * 365 + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400) - 719_162
}

fn month_len(year: i64, month: usize) -> i64 {
    match month {
        1 => first_day(year + 1) - first_day(year) - 337,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

/// Widest field.
const MAX_WIDTH: usize = 1024;

/// What stands between the percent sign and the letter of a field.
#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    pad: Option<char>,
    upper: bool,
    swap: bool,
    width: Option<usize>,
}

/// A time as Python's `strftime` writes it on Linux, where no time zone is known; `None`: now, in UTC. What is no field
/// stays as it is.
pub(super) fn strftime(format: &str, local: Option<i64>) -> Res<String> {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    };
    let time = Time::new(local.unwrap_or_else(now));
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let field = &rest[at..];
        let mut inside = &field[1..];
        let mut flags = Flags::default();
        while let Some(flag) = inside.chars().next().filter(|c| "_-0^#".contains(*c)) {
            match flag {
                '^' => flags.upper = true,
                '#' => flags.swap = true,
                pad => flags.pad = Some(pad),
            }
            inside = &inside[1..];
        }
        let digits = inside.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            let width = inside[..digits].parse().ok().filter(|w| *w <= MAX_WIDTH);
            let width =
                width.ok_or_else(|| Error::new(format!("strftime_now: a width is above {MAX_WIDTH}")))?;
            flags.width = Some(width);
            inside = &inside[digits..];
        }
        // Other calendars and digits, which the locale of a template has not.
        let letter = inside.strip_prefix(['E', 'O']).unwrap_or(inside).chars().next();
        let whole = letter.and_then(|letter| Some((letter, write_field(&time, letter, flags)?)));
        match whole {
            Some((letter, text)) => {
                out.push_str(&text);
                let modifier = usize::from(inside.starts_with(['E', 'O']));
                rest = &inside[modifier + letter.len_utf8()..];
            }
            None => {
                // As it stands, up to where it stops to be a field.
                let end = field.len() - inside.len() + inside.chars().next().map_or(0, char::len_utf8);
                out.push_str(&field[..end]);
                rest = &field[end..];
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// One field; `None` when there is no such field.
fn write_field(time: &Time, letter: char, flags: Flags) -> Option<String> {
    let (hour, minute, second) = (time.second / 3600, time.second / 60 % 60, time.second % 60);
    let hour12 = (hour + 11) % 12 + 1;
    let monday_first = (time.weekday as i64 + 6) % 7;
    let number = |number: i64, width: usize, pad: char| {
        let pad = match flags.pad.unwrap_or(pad) {
            '_' => ' ',
            other => other,
        };
        let width = flags.width.unwrap_or(if pad == '-' { 0 } else { width });
        let digits = number.to_string();
        let missing = width.saturating_sub(digits.len());
        let pad = if pad == '-' { '0' } else { pad };
        Some(pad.to_string().repeat(missing) + &digits)
    };
    match letter {
        'Y' => number(time.year, 4, '0'),
        'C' => number(time.year / 100, 2, '0'),
        'y' => number(time.year % 100, 2, '0'),
        'G' => number(time.iso_week().0, 4, '0'),
        'g' => number(time.iso_week().0 % 100, 2, '0'),
        'V' => number(time.iso_week().1, 2, '0'),
        'U' => number((time.day_of_year + 7 - time.weekday as i64) / 7, 2, '0'),
        'W' => number((time.day_of_year + 7 - monday_first) / 7, 2, '0'),
        'm' => number(time.month as i64 + 1, 2, '0'),
        'd' => number(time.day, 2, '0'),
        'e' => number(time.day, 2, '_'),
        'j' => number(time.day_of_year + 1, 3, '0'),
        'H' => number(hour, 2, '0'),
        'k' => number(hour, 2, '_'),
        'I' => number(hour12, 2, '0'),
        'l' => number(hour12, 2, '_'),
        'M' => number(minute, 2, '0'),
        'S' => number(second, 2, '0'),
        's' => number(time.stamp, 1, '0'),
        'w' => number(time.weekday as i64, 1, '0'),
        'u' => number(monday_first + 1, 1, '0'),
        // Python writes it itself, and knows no flags for it.
        'f' => Some("000000".to_owned()),
        _ => text_field(time, letter, flags),
    }
}

fn text_field(time: &Time, letter: char, flags: Flags) -> Option<String> {
    let is_morning = time.second < 43_200;
    let text = match letter {
        'B' => MONTHS[time.month].to_owned(),
        'b' | 'h' => MONTHS[time.month][..3].to_owned(),
        'A' => DAYS[time.weekday].to_owned(),
        'a' => DAYS[time.weekday][..3].to_owned(),
        'p' => (if is_morning { "AM" } else { "PM" }).to_owned(),
        'P' => (if is_morning { "am" } else { "pm" }).to_owned(),
        '%' => "%".to_owned(),
        'n' => "\n".to_owned(),
        't' => "\t".to_owned(),
        // There is no time zone.
        'z' | 'Z' => String::new(),
        _ => {
            let parts = match letter {
                'F' => "%Y-%m-%d",
                'T' | 'X' => "%H:%M:%S",
                'R' => "%H:%M",
                'D' | 'x' => "%m/%d/%y",
                'r' => "%I:%M:%S %p",
                'c' => "%a %b %e %H:%M:%S %Y",
                _ => return None,
            };
            let mut text = String::new();
            let mut letters = parts.chars();
            while let Some(c) = letters.next() {
                if c == '%' {
                    text += &write_field(time, letters.next()?, Flags::default())?;
                } else {
                    text.push(c);
                }
            }
            text
        }
    };
    let text = match (flags.upper, flags.swap) {
        (false, true) if letter == 'p' => text.to_lowercase(),
        (true, _) | (_, true) => text.to_uppercase(),
        _ => text,
    };
    let missing = flags.width.unwrap_or(0).saturating_sub(text.len());
    let pad = if flags.pad == Some('0') { "0" } else { " " };
    Some(pad.repeat(missing) + &text)
}
