//! The date, for chat templates that tell the model which day it is.

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
const DAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Formats a time, in seconds since 1970 UTC, as C's `strftime` does; the error is a code that chat
/// templates have no use for.
pub(super) fn strftime(format: &str, seconds: u64) -> Result<String, char> {
    let (year, month, day) = civil(seconds / 86_400);
    let weekday = DAYS[(seconds / 86_400 % 7) as usize];
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        text += &match chars.next().unwrap_or('%') {
            'Y' => year.to_string(),
            'y' => format!("{:02}", year % 100),
            'm' => format!("{:02}", month + 1),
            'B' => MONTHS[month].to_owned(),
            'b' => MONTHS[month][..3].to_owned(),
            'd' => format!("{day:02}"),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'H' => format!("{hour:02}"),
            'M' => format!("{minute:02}"),
            'S' => format!("{second:02}"),
            '%' => "%".to_owned(),
            other => return Err(other),
        };
    }
    Ok(text)
}

/// Year, month (from 0) and day (from 1) of a day counted from 1970-01-01.
fn civil(mut day: u64) -> (u64, usize, u64) {
    let mut year = 1970;
    while day >= 365 + leap(year) {
        day -= 365 + leap(year);
        year += 1;
    }
    let lengths = [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    (year, month, day + 1)
}

/// 1 in a leap year.
fn leap(year: u64) -> u64 {
    let divides = |n| year.is_multiple_of(n);
    u64::from(divides(4) && (!divides(100) || divides(400)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_calendar() {
        let full = "%A %d %B %Y, %H:%M:%S";
        assert_eq!(strftime(full, 0).unwrap(), "Thursday 01 January 1970, 00:00:00");
        assert_eq!(strftime(full, 951_782_399).unwrap(), "Monday 28 February 2000, 23:59:59");
        assert_eq!(strftime(full, 951_782_400).unwrap(), "Tuesday 29 February 2000, 00:00:00");
        assert_eq!(strftime("%a %b %y %m %% %", 1_735_689_599).unwrap(), "Tue Dec 24 12 % %");
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(strftime("%d %Q", 0), Err('Q'));
    }
}
