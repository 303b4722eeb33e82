//! Promise: the page at `/` shows what the gateway does as it happens, to whoever may see it and in any browser window; it
//! asks nobody else, and no name that a client made up can make it do anything.

mod browser;
mod door;
mod first;
mod hands;
mod live;
mod lost;
mod order;
mod picture;
mod scene;

use self::browser::Browser;
