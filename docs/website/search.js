// A colon in a query names a field of the index; in ours it is part of a word, as in urn:bartizan:problem:not_found.
const send = Worker.prototype.postMessage;
Worker.prototype.postMessage = function (message, ...rest) {
  const query = message.query && message.query.replaceAll(":", "\\:");
  return send.call(this, query ? { ...message, query } : message, ...rest);
};
