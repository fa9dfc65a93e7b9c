//! Wants none.

capable_guests::capable!([]);
