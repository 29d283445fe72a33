// An order becomes a dispatch note: the engine's benchmark plugin, for QuickJS.

const cents = (amount) => Math.round(amount * 100) / 100;

export function handle(text) {
  const order = JSON.parse(text);
  const { customer, ship_to } = order;
  const lines = order.items.map((item, at) => ({
    position: at + 1,
    sku: item.sku,
    text: `${item.quantity} x ${item.title.toUpperCase()}`,
    quantity: item.quantity,
    unit_price: item.price,
    amount: cents(item.quantity * item.price),
  }));
  const goods = cents(lines.reduce((sum, line) => sum + line.amount, 0));
  const flags = [[order.gift, "gift"], [customer.newsletter, "newsletter"], [goods > 250, "insured"]];
  return JSON.stringify({
    seq: order.seq,
    kind: "dispatch-note",
    reference: `${order.number}/${customer.id}`,
    recipient: { customer: customer.id, name: `${customer.first_name} ${customer.last_name}`, email: customer.email },
    address: [ship_to.street, `${ship_to.zip} ${ship_to.city}`, ship_to.country.toUpperCase()],
    lines,
    totals: {
      pieces: order.items.reduce((sum, item) => sum + item.quantity, 0),
      goods,
      shipping: order.shipping,
      amount: cents(goods + order.shipping),
      currency: order.currency,
    },
    flags: flags.filter(([set]) => set).map(([, flag]) => flag),
    remark: order.note ?? "",
  });
}
