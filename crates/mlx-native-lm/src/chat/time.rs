//! Dates for templates.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

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

/// A time as Python's `strftime` writes it where no time zone is known; `None`: now, in UTC.
pub(super) fn strftime(format: &str, local: Option<i64>) -> Result<String, Error> {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    };
    let time = Time::new(local.unwrap_or_else(now));
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut field = chars.next();
        let bare = field == Some('-');
        if bare {
            field = chars.next();
        }
        if !field.is_some_and(|field| write_field(&mut out, &time, field, bare)) {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!(
                    "strftime_now: %{} is not supported",
                    field.map_or(String::new(), |f| f.to_string())
                ),
            ));
        }
    }
    Ok(out)
}

/// One field, without leading zeros where it is `bare`; false when there is no such field.
fn write_field(out: &mut String, time: &Time, field: char, bare: bool) -> bool {
    let (hour, minute, second) = (time.second / 3600, time.second / 60 % 60, time.second % 60);
    let (number, width) = match field {
        'Y' => (time.year, 4),
        'y' => (time.year % 100, 2),
        'm' => (time.month as i64 + 1, 2),
        'd' => (time.day, 2),
        'j' => (time.day_of_year + 1, 3),
        'H' => (hour, 2),
        'I' => ((hour + 11) % 12 + 1, 2),
        'M' => (minute, 2),
        'S' => (second, 2),
        'w' => (time.weekday as i64, 1),
        'u' => ((time.weekday as i64 + 6) % 7 + 1, 1),
        'f' => (0, 6),
        _ => return write_text(out, time, field),
    };
    // Writing to a string does not fail.
    let width = if bare { 1 } else { width };
    write!(out, "{number:0width$}").is_ok()
}

fn write_text(out: &mut String, time: &Time, field: char) -> bool {
    let parts = match field {
        'F' => "Y-m-d",
        'T' | 'X' => "H:M:S",
        'R' => "H:M",
        'D' | 'x' => "m/d/y",
        _ => "",
    };
    for part in parts.chars() {
        if part.is_ascii_alphabetic() {
            write_field(out, time, part, false);
        } else {
            out.push(part);
        }
    }
    let name = match field {
        'B' => MONTHS[time.month],
        'b' | 'h' => &MONTHS[time.month][..3],
        'A' => DAYS[time.weekday],
        'a' => &DAYS[time.weekday][..3],
        'p' if time.second < 43_200 => "AM",
        'p' => "PM",
        '%' => "%",
        'n' => "\n",
        't' => "\t",
        // There is no time zone.
        'z' | 'Z' => return true,
        'e' => {
            return write!(out, "{:2}", time.day).is_ok();
        }
        _ => return !parts.is_empty(),
    };
    out.push_str(name);
    true
}
