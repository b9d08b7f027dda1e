package dev.weir.nexmark;

/** What the queries need of a bid. */
public final class Bid {
    public long auction;
    public long bidder;
    public long price;
    /** In milliseconds since 1970. */
    public long time;
    /** As it was written. */
    public String dateTime;
    public String extra;
}
