// Node's door: `node bootstrap.cjs`, with the environment that Lambda's runtimes find themselves in.
//
// Law of this directory: only what Node itself brings, nothing that a function could have put into its package under the same name
// (node: in front of each import), and no global left behind but `awslambda`.
//
//   bootstrap   the plain start
//   prestart    the start before a function is known
//   rehearsal   a call before there are calls, for that start
//   main        one process: init, then calls until the end
//   client      the Runtime API over one connection
//   invocation  one call from its event to its answer
//   context     what the handler gets as its second argument
//   streaming   handlers that answer in pieces
//   loading     "dir/file.name" to a function
//   failures    anything thrown to Lambda's error object
//   logging     console as Lambda has it
'use strict';

require('./main.cjs').run();
