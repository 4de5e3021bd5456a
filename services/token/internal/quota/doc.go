// Package quota counts what clients spend: requests in a sliding minute, tokens in
// a calendar month (UTC), failed authentications, which are slow and cheap when there are too
// many. It must not decide what a client is told.
//
// The count of the month is exact. It lives in Redis, where it is charged in the
// same round trip as the rate window, and is written behind to Postgres within
// writeEvery. Without Redis every token is counted in Postgres by a conditional
// update. The ways from one to the other never lose a count:
//
//   - A counter that is missing in Redis is loaded from Postgres. If the month was
//     counted before, then Redis lost it, and other replicas may still hold counts
//     they have not written: settle is waited for first.
//   - A Redis that restarted, or that another one took over from, may have kept an
//     older count. So the run id of the server is part of the counter's key, and an
//     answer holds only if the run id is still the same after it; else the charge is
//     tried again (and the rate window is charged twice, once per restart).
//   - A counter that Postgres was charged for meanwhile is raised in Redis before
//     this replica uses it again; and every write-behind that finds a higher count
//     in Postgres raises the one in Redis.
//   - What is raised loses what was counted there on the way to the same number. So
//     a token that Redis counted while the same replica charged Postgres is counted
//     in Postgres too, and the counter is raised only when nothing is under way.
//
// A refund goes to where the token was counted, and never lowers what a replica saw.
//
// That is exact for what one replica counts. What stays open is a Redis that some
// replicas reach and others do not, for the moment of its restart too, and for up to a
// second after it hung, until each has found it back: of what both
// kinds counted between two writes only the larger part is kept, again with every
// write for as long as it lasts, and nothing makes up for it. A command whose answer was lost may have counted a token
// that nobody got.
package quota
