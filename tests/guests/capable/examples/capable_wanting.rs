//! Wants every capability.

capable_guests::capable!(capable_guests::WANTS);
